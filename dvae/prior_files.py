"""A fitted prior beside the weights: `prior.safetensors` and `prior.json`, and whose prior it is.

A prior fits the latents of one network alone, so it names that network's digest and is refused with
any other.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationError

from dvae.errors import CheckpointError
from dvae.files import sha256
from dvae.prior import FlowConfig, FlowPrior, MixturePrior, Prior
from dvae.schema import Count, Part, Positive
from dvae.tensors import mismatches, read_tensors, write_tensors

TENSORS, ABOUT = "prior.safetensors", "prior.json"
LARGEST_ABOUT = 2**20  # bytes
Kind = Literal["gaussian", "mixture", "flow"]


class PriorAbout(Part):
    """What a prior is and whose."""

    format: Literal["dvae-prior/1"] = "dvae-prior/1"
    kind: Kind
    weights: str  # the digest of the network's tensors
    sha256: str = ""  # of prior.safetensors
    shape: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=3)]  # of z
    latents: Count  # that it was fitted to
    components: Positive = 1  # of a mixture
    flow: FlowConfig | None = None
    labels: tuple[str, ...] = ()  # that a flow may be asked for


@dataclass
class FittedPrior:
    """A prior and what it is."""

    model: Prior
    about: PriorAbout

    def __str__(self) -> str:
        about = self.about
        name = {
            "gaussian": "a Gaussian with a full covariance",
            "mixture": f"a mixture of {about.components} Gaussians",
            "flow": "a flow",
        }[about.kind]
        labels = f", on {len(about.labels)} labels by option" if about.labels else ""
        return f"{name}, fitted to {about.latents:,} latents{labels}"


def write_prior(folder: Path, fitted: FittedPrior) -> None:
    """Write the two files of a prior into a folder that exists."""
    write_tensors(fitted.model.state_dict(), folder / TENSORS)
    about = fitted.about.model_copy(update={"sha256": sha256(folder / TENSORS)})
    text = json.dumps(about.model_dump(mode="json"), indent=1, sort_keys=True)
    (folder / ABOUT).write_text(text + "\n")


def read_prior(folder: Path, owner: str) -> FittedPrior | None:
    """The prior that lies in a weights folder; None where there is none.

    Args:
        folder: of the weights.
        owner: the digest of the network that it must belong to.

    Raises:
        CheckpointError: it is damaged, or another network's.
    """
    if not (folder / ABOUT).is_file():
        return None
    about = _read_about(folder / ABOUT)
    again = "fit it again with dvae fit-prior, or sample with --prior normal"
    if about.weights != owner:
        raise CheckpointError(f"{folder / ABOUT} is the prior of other weights: {again}")
    tensors = read_tensors(folder / TENSORS)
    if sha256(folder / TENSORS) != about.sha256:
        raise CheckpointError(f"{folder / TENSORS} does not have the SHA-256 of {ABOUT}: {again}")
    with torch.device("meta"):
        problems = mismatches(tensors, _build(about).state_dict())
    if problems:
        raise CheckpointError(f"{folder / TENSORS} is not what {ABOUT} describes: {problems}")
    model = _build(about)
    model.load_state_dict(tensors)
    return FittedPrior(model.eval(), about)


def _build(about: PriorAbout) -> Prior:
    if about.flow is not None:
        return FlowPrior(about.shape, about.flow, about.labels)
    return MixturePrior(about.shape, about.components)


def _read_about(path: Path) -> PriorAbout:
    try:
        if path.stat().st_size > LARGEST_ABOUT:
            raise CheckpointError(f"{path} is larger than a prior's description can be")
        return PriorAbout.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is not a prior's description: {reason}") from None
