"""Fit a prior to the latents of a training split: `dvae fit-prior WEIGHTS SHARDS`."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import torch

from dvae.encode import LATENTS, Latents, encode_split, read_latents
from dvae.errors import CheckpointError, UserError
from dvae.files import MANIFEST, locked, whole_folder
from dvae.latents import keyed_normal
from dvae.prior import FlowConfig, fit_gaussian, fit_mixture
from dvae.prior_files import ABOUT, TENSORS, FittedPrior, Kind, PriorAbout, write_prior
from dvae.recipe import parse_part, with_overrides
from dvae.schema import Part, Positive
from dvae.tensors import digest, read_tensors
from dvae.train_prior import train_flow
from dvae.weights import CARD, MODEL, Weights, model_card

FIT = "prior-fit"  # beside the weights: checkpoints of an unfinished flow


class GaussianConfig(Part):
    """Nothing to choose."""


class MixtureConfig(Part):
    """The mixture and its start."""

    components: Positive = 16
    seed: int = 0


CONFIGS: dict[Kind, type[Part]] = {
    "gaussian": GaussianConfig,
    "mixture": MixtureConfig,
    "flow": FlowConfig,
}


def fit_prior(
    weights: Weights, shards: str, split: str, kind: Kind, overrides: list[str]
) -> FittedPrior:
    """Fit a prior and put it beside the weights, in place of an older one.

    Args:
        weights: of a weights folder on this disk.
        shards: that they were trained on, or a folder that `dvae encode` wrote.
        split: of the shards.
        kind: which prior.
        overrides: `key=value` of its config.

    Raises:
        UserError: the weights are of no folder, or a key is wrong.
    """
    folder = weights.folder
    if folder is None:
        raise UserError("a prior is kept in a weights folder: give the run, or its weights folder")
    config = parse_part(CONFIGS[kind], with_overrides({}, overrides), f"--kind={kind}")
    with locked(folder.parent / FIT):
        latents = latents_of(weights, shards, split)
        fitted = fit(latents, config, weights, folder.parent / FIT)
        install(folder, weights, fitted)
        shutil.rmtree(folder.parent / FIT / "flow", ignore_errors=True)
    return fitted


def latents_of(weights: Weights, shards: str, split: str) -> Latents:
    """Encoded now, mirrored ones too where the training mirrored; or as `dvae encode` wrote them."""
    if (Path(shards) / LATENTS).is_file():
        return read_latents(Path(shards), weights)
    mirror = bool(weights.about.recipe.get("data", {}).get("flip"))
    return encode_split(weights, shards, split, mirror)


def fit(latents: Latents, config: Part, weights: Weights, folder: Path) -> FittedPrior:
    """The prior that a config asks for.

    Args:
        latents: of the training split.
        config: one of `CONFIGS`.
        weights: that the latents are of; a flow is trained where they are.
        folder: for checkpoints of a flow.
    """
    owner = weights.digest
    about = {"weights": owner, "shape": tuple(latents.mean.shape[1:]), "latents": len(latents.ids)}
    if isinstance(config, MixtureConfig):
        prior = fit_mixture(draws(latents, config.seed), config.components, config.seed)
        return FittedPrior(prior, PriorAbout(kind="mixture", components=config.components, **about))
    if isinstance(config, FlowConfig):
        labels = _labels(latents) if config.labels else ()
        flow = train_flow(latents, config, labels, folder / "flow", owner, weights.device)
        return FittedPrior(flow, PriorAbout(kind="flow", flow=config, labels=labels, **about))
    prior = fit_gaussian(latents.mean, latents.variance)
    return FittedPrior(prior, PriorAbout(kind="gaussian", **about))


def draws(latents: Latents, seed: int) -> torch.Tensor:
    """One z of each posterior: (N, *shape)."""
    rows = torch.arange(len(latents.mean)).numpy()
    noise = keyed_normal(rows, latents.mean.shape[1:], seed, 0, like=latents.mean)
    return latents.mean + latents.variance.sqrt() * noise


def install(folder: Path, weights: Weights, fitted: FittedPrior) -> None:
    """Put a prior into a weights folder: a new folder with all of it, in place of the old one.

    Raises:
        CheckpointError: other weights lie there by now.
    """
    if digest(read_tensors(folder / MODEL)) != fitted.about.weights:
        raise CheckpointError(
            f"{folder} changed while the prior was fitted: let the training end, then fit it again"
        )
    with whole_folder(folder) as temporary:
        for file in sorted(folder.iterdir()):
            if file.is_file() and file.name not in (MANIFEST, TENSORS, ABOUT):
                shutil.copy2(file, temporary / file.name)
        write_prior(temporary, fitted)
        (temporary / CARD).write_text(model_card(weights.model, weights.about, fitted))


def report(weights: Weights, shards: str, split: str, kind: Kind, overrides: list[str]) -> None:
    """Fit, and say what was fitted."""
    fitted = fit_prior(weights, shards, split, kind, overrides)
    sys.stdout.write(f"{fitted}; in {weights.folder}\n")


def _labels(latents: Latents) -> tuple[str, ...]:
    counts = Counter(label for label in latents.labels if label)
    if len(counts) < 2:
        raise UserError(f"labels=true needs two labels at least, the shards have {len(counts)}")
    return tuple(sorted(counts))
