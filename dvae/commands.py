"""What each command of `dvae` does with its arguments.

torch is imported by the commands that need it, so that --help answers at once.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dvae.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dvae.weights import Weights

MOST_DRAWN = 1_000_000  # samples, of which some are kept


def train(given: argparse.Namespace) -> int:
    """`dvae train`."""
    from dvae.train import main

    return main(given.arguments)


def sample(given: argparse.Namespace) -> None:
    """`dvae sample`."""
    from dvae import generate
    from dvae.pictures import grid

    if (given.keep is None) != (given.like is None):
        raise UserError(
            "--keep and --like go together, as --keep 0.05 --like SHARDS: the share of the samples to "
            "keep, and the pictures that they shall be recognised as"
        )
    _refuse_many(given.count, given.keep)
    how = generate.Sampling(given.temperature, given.prior == "normal", given.label, given.guidance)
    if given.keep is None:
        images = generate.sample(_load(given), given.count, given.seed, how)
    else:
        from dvae.rejection import sample_best

        images, said = sample_best(
            _load(given), given.like, given.count, given.keep, given.seed, how
        )
        sys.stdout.write(f"{said}\n")
    columns = min(given.count, given.columns or math.ceil(given.count**0.5))
    _write(grid(images, columns), given.out)


def reconstruct(given: argparse.Namespace) -> None:
    """`dvae reconstruct`."""
    from dvae import generate

    weights = _load(given)
    images = generate.pictures_of(weights, given.source, given.count)
    _write(generate.sheet_of_reconstructions(weights, images, given.columns or 8), given.out)


def interpolate(given: argparse.Namespace) -> None:
    """`dvae interpolate`."""
    from dvae import generate
    from dvae.pictures import grid

    images = generate.between(_load(given), given.first, given.second, given.count)
    _write(grid(images, min(given.count, given.columns or given.count)), given.out)


def encode(given: argparse.Namespace) -> None:
    """`dvae encode`."""
    from dvae.encode import encode_shards

    count = encode_shards(_load(given), given.shards, given.split, given.out, given.mirror)
    sys.stdout.write(f"{count} latents in {given.out}\n")


def export(given: argparse.Namespace) -> None:
    """`dvae export`."""
    from dvae.diffusers_layout import write_diffusers

    write_diffusers(given.out, _load(given))
    sys.stdout.write(f"{given.out}\n")


def fit_prior(given: argparse.Namespace) -> None:
    """`dvae fit-prior`."""
    from dvae.fit_prior import report

    report(_load(given), given.shards, given.split, given.kind, given.set)


def evaluate(given: argparse.Namespace) -> None:
    """`dvae evaluate`."""
    from dvae.evaluate import report
    from dvae.files import write_json

    out = given.out
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"--out={out} can't be written: give a file's name in a folder that exists")
    if given.keep is not None and not given.samples:
        raise UserError(f"--keep={given.keep} needs --samples: how many are kept and judged")
    _refuse_many(given.samples, given.keep)
    weights = _load(given)
    values = report(weights, given.shards, given.split, given.images)
    if given.samples:
        from dvae import quality

        train = given.train or given.shards
        values["quality"] = quality.report(
            weights, train, given.shards, given.split, given.samples, given.sheet, given.keep
        )
    if out:
        write_json(out, values)
        sys.stdout.write(f"written to {out}\n")


def blur(given: argparse.Namespace) -> None:
    """`dvae blur`."""
    from dvae.blur import report
    from dvae.find import load
    from dvae.generate import of_shards

    weights = _load(given)
    images = of_shards(weights, given.shards, given.split, given.images)
    report(weights, images, given.out, given.autoencoder and load(given.autoencoder))


def health(given: argparse.Namespace) -> None:
    """`dvae health`."""
    from dvae.health import report

    report(_load(given), given.weights, given.shards, given.split, given.images)


def checkpoints(given: argparse.Namespace) -> int:
    """`dvae checkpoints`."""
    from dvae import inventory

    if given.export:
        inventory.export_checkpoint(given.run, given.export, given.out)
        return 0
    return inventory.report(given.run, given.keep, given.keep_every, given.prune)


def doctor(given: argparse.Namespace) -> int:
    """`dvae doctor`."""
    from dvae import doctor

    return doctor.report(given.run, given.shards, given.verify)


def _refuse_many(count: int, keep: float | None) -> None:
    if keep is not None and count / keep > MOST_DRAWN:
        raise UserError(
            f"--keep={keep} of {count} samples draws {count / keep:.3g}, {MOST_DRAWN} at most: keep more"
        )


def _load(given: argparse.Namespace) -> "Weights":
    from dvae.find import load
    from dvae.weights import resolve_device

    weights = load(given.weights)
    weights.model.to(resolve_device(given.device))
    return weights


def _write(sheet: "Tensor", path: Path) -> None:
    from dvae.pictures import save_png

    if path.is_dir():
        raise UserError(f"--out={path} is a folder: give the name of a PNG file")
    try:
        save_png(sheet, path)
    except OSError as error:
        raise UserError(f"--out={path} cannot be written: {error.strerror}") from None
    sys.stdout.write(f"{path}\n")
