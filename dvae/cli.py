"""The `dvae` command: what one does with trained weights, and its arguments."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from dvae import commands as do
from dvae.errors import exit_code_of

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
MOST = 1_000_000  # pictures, or columns, that an option may ask for


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = _parser().parse_args(arguments)
    return exit_code_of(lambda: given.command(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dvae", description="Use the weights of a trained VAE.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_pictures(commands)
    _add_latents(commands)
    _add_measures(commands)
    _add_checkpoints(commands)
    return parser


def _add_train(commands: Commands) -> None:
    train = _add(commands, "train", do.train, "train a recipe with one process", weights=False)
    train.add_argument("arguments", nargs=argparse.REMAINDER, help="as of python -m dvae.train")


def _add_pictures(commands: Commands) -> None:
    sample = _add(commands, "sample", do.sample, "draw new pictures from the prior")
    sample.add_argument("--count", type=_positive, default=25, help="pictures (default 25)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument(
        "--temperature", type=_not_negative, default=1.0, help="of z; 1 samples the model itself"
    )
    sample.add_argument(
        "--prior",
        choices=("fitted", "normal"),
        default="fitted",
        help="the fitted one, if any (default), or N(0, I)",
    )
    sample.add_argument("--label", help="that the fitted prior knows; all without it")
    sample.add_argument(
        "--guidance", type=_not_negative, default=1.0, help="towards the label; 1 as learnt"
    )
    sample.add_argument(
        "--keep", type=_share, help="the most recognisable of count / keep samples, as 0.05"
    )
    sample.add_argument(
        "--like", help="shards that --keep recognises samples by (dvae[perceptual])"
    )
    _add_sheet(sample, "samples.png")

    reconstruct = _add(
        commands, "reconstruct", do.reconstruct, "pictures over their reconstructions"
    )
    reconstruct.add_argument("source", nargs="+", type=Path, help="pictures, a folder, or shards")
    reconstruct.add_argument("--count", type=_positive, default=16, help="pictures (default 16)")
    _add_sheet(reconstruct, "reconstructions.png")

    between = _add(commands, "interpolate", do.interpolate, "from one picture to another")
    between.add_argument("first", type=Path)
    between.add_argument("second", type=Path)
    between.add_argument("--count", type=_positive, default=10, help="pictures (default 10)")
    _add_sheet(between, "interpolation.png")


def _add_latents(commands: Commands) -> None:
    encode = _add(commands, "encode", do.encode, "write the latents of a split")
    encode.add_argument("shards", help="a folder of shards, local or remote")
    encode.add_argument("out", type=Path, help="a folder")
    encode.add_argument("--split", default="train")
    encode.add_argument("--mirror", action="store_true", help="also of each picture mirrored")

    fit = _add(commands, "fit-prior", do.fit_prior, "fit a prior to the training split's latents")
    fit.add_argument("shards", help="that the weights were trained on, or what encode wrote")
    fit.add_argument("--kind", choices=("gaussian", "mixture", "flow"), default="flow")
    fit.add_argument("--set", nargs="+", default=[], metavar="key=value", help="as steps=2000")
    fit.add_argument("--split", default="train")

    export = _add(commands, "export", do.export, "write a klvae as diffusers' AutoencoderKL")
    export.add_argument("out", type=Path, help="a new folder")


def _add_measures(commands: Commands) -> None:
    evaluate = _add(commands, "evaluate", do.evaluate, "measure on held-out shards")
    evaluate.add_argument("shards", help="a folder of shards, local or remote")
    evaluate.add_argument("--split", default="val")
    evaluate.add_argument("--images", type=_positive, default=0, help="how many; 0: all")
    evaluate.add_argument(
        "--samples", type=_positive, default=0, help="also judge so many samples (dvae[perceptual])"
    )
    evaluate.add_argument(
        "--keep", type=_share, help="also judge the most recognisable of samples / keep"
    )
    evaluate.add_argument("--train", help="shards that were trained on; SHARDS without it")
    evaluate.add_argument(
        "--sheet", type=Path, help="a PNG: samples over the pictures they resemble"
    )
    evaluate.add_argument("--out", type=Path, help="a JSON file for the same figures")

    blur = _add(commands, "blur", do.blur, "where the detail goes between pictures and samples")
    blur.add_argument("shards", help="a folder of shards, local or remote")
    blur.add_argument("--split", default="val")
    blur.add_argument("--images", type=_positive, default=128, help="pictures (default 128)")
    blur.add_argument("--autoencoder", help="weights of one with the same latent size")
    blur.add_argument("--out", type=Path, default=Path("blur"), help="a new folder (default blur)")

    health = _add(commands, "health", do.health, "what ails a run, and the key to change")
    health.add_argument("shards", help="a folder of shards, local or remote")
    health.add_argument("--split", default="val")
    health.add_argument("--images", type=_positive, default=0, help="how many; 0: all")


def _add_checkpoints(commands: Commands) -> None:
    kept = _add(
        commands, "checkpoints", do.checkpoints, "list, verify, prune, export", weights=False
    )
    kept.add_argument("run", type=Path, help="the folder of a run")
    kept.add_argument("--prune", action="store_true", help="remove those that needn't be kept")
    kept.add_argument("--keep", type=_positive, help="the last K whole ones (of the recipe)")
    kept.add_argument("--keep-every", type=_positive, help="and every Nth step (of the recipe)")
    kept.add_argument("--export", metavar="STEP", help="a step, best or last, to --out")
    kept.add_argument("--out", type=Path, default=Path("weights"), help="a new weights folder")

    doctor = _add(commands, "doctor", do.doctor, "what is wrong, and what to do", weights=False)
    doctor.add_argument("run", type=Path, nargs="?", help="the folder of a run, or a recipe")
    doctor.add_argument("--shards", action="append", help="a folder of shards; not the run's")
    doctor.add_argument("--verify", action="store_true", help="read the shards from end to end")


def _add(
    commands: Commands,
    name: str,
    command: Callable[[argparse.Namespace], int | None],
    text: str,
    weights: bool = True,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    if weights:
        parser.add_argument("weights", help="a run, its weights folder, or a Hub id")
        parser.add_argument("--device", help="cpu, cuda, mps …; the accelerator if there is one")
    return parser


def _add_sheet(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(name), help=f"a PNG (default {name})")
    parser.add_argument("--columns", type=_positive, help="of the grid")


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text} must be between 1 and {MOST}")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be above 0, and 1 at most")
    return value


if __name__ == "__main__":
    sys.exit(main())
