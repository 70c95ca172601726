"""The weights folder: `model.safetensors`, `config.json` and a model card; it opens anywhere.

The tensors open with safetensors alone; `Weights.from_pretrained` opens the folder, or the Hub's copy
of it, as a network (design contract 4).
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from pydantic import TypeAdapter
from torch import Tensor

from dvae import __version__, prior_files
from dvae.config import LossConfig
from dvae.errors import CheckpointError, UserError
from dvae.files import MANIFEST, damage, whole_folder
from dvae.model_config import ModelConfig
from dvae.models.blocks import LatentModel
from dvae.networks import build
from dvae.prior_files import FittedPrior, read_prior, write_prior
from dvae.tensors import digest, mismatches, read_tensors, write_tensors

FORMAT = "dvae-weights/1"
MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FILES = [MODEL, CONFIG, prior_files.TENSORS, prior_files.ABOUT]
LARGEST_CONFIG = 2**20  # bytes


@dataclass
class About:
    """What the weights are: enough to build the network and to say what it scored."""

    model: ModelConfig
    loss: LossConfig
    scale: float  # of the likelihood, grey levels
    step: int
    metrics: dict[str, Any]  # of the validation split
    measured: int | None  # the step that the metrics are of
    recipe: dict[str, Any]  # the whole of it

    def to_json(self) -> dict[str, Any]:
        """What `config.json` holds."""
        return {
            "format": FORMAT,
            "version": __version__,
            "model": self.model.model_dump(mode="json"),
            "loss": self.loss.model_dump(mode="json"),
            "scale": self.scale,
            "step": self.step,
            "metrics": self.metrics,
            "measured": self.measured,
            "recipe": self.recipe,
        }


class Weights(ModelHubMixin):
    """A trained network and what it is; `from_pretrained`, `save_pretrained`, `push_to_hub`."""

    model: LatentModel
    about: About
    folder: Path | None  # where they lie; a prior may lie there too

    def __init__(self, model: LatentModel, about: About, folder: Path | None = None) -> None:
        self.model = model.eval()
        self.about = about
        self.folder = folder

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @property
    def digest(self) -> str:
        """What the network is told by, wherever its file lies: see `dvae.tensors.digest`."""
        return digest(self.model.state_dict())

    @cached_property
    def prior(self) -> FittedPrior | None:
        """What was fitted to these weights' latents, if anything was.

        Raises:
            CheckpointError: a prior lies beside the weights that is damaged, or another network's.
        """
        if self.folder is None:
            return None
        return read_prior(self.folder, self.digest)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_weights(save_directory, self.model, self.about, self.prior)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "Weights":
        known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        folder = Path(model_id)
        if not folder.is_dir():
            given = {key: value for key, value in options.items() if key in known}
            folder = Path(snapshot_download(model_id, allow_patterns=FILES, **given))
        return read_weights(folder)


def write_weights(
    folder: Path, model: LatentModel, about: About, prior: FittedPrior | None = None
) -> None:
    """Write the files of a weights folder into one that exists."""
    text = json.dumps(about.to_json(), indent=1, sort_keys=True)
    write_tensors(model.state_dict(), folder / MODEL, {"format": "pt", "config": text})
    (folder / CONFIG).write_text(text + "\n")
    (folder / CARD).write_text(model_card(model, about, prior))
    if prior:
        write_prior(folder, prior)


def export(folder: Path, model: LatentModel, about: About) -> None:
    """Write a whole weights folder, in place of an older one."""
    with whole_folder(folder) as temporary:
        write_weights(temporary, model, about)


def read_weights(folder: Path) -> Weights:
    """Open a weights folder; where it has a manifest, everything is checked against it."""
    wrong = damage(folder) if (folder / MANIFEST).is_file() else None
    if wrong:
        raise CheckpointError(f"{folder} is damaged: {wrong}: copy it again or export it anew")
    weights = open_network(folder / MODEL, _read_about(folder / CONFIG), CONFIG)
    weights.folder = folder
    return weights


def step_of(folder: Path) -> int | None:
    """The step that a weights folder is of; None where it isn't one."""
    try:
        return _read_about(folder / CONFIG).step
    except CheckpointError:
        return None


def open_network(path: Path, about: About, source: str) -> Weights:
    """The network that `about`, of the file `source`, describes, with the tensors of `path`.

    Raises:
        CheckpointError: the tensors are of another network; nothing of its size was allocated.
    """
    return network_of(read_tensors(path), about, str(path), source)


def network_of(tensors: dict[str, Tensor], about: About, path: str, source: str) -> Weights:
    """The same, with the tensors that were read from `path`."""
    with torch.device("meta"):
        problems = mismatches(tensors, build(about.model).state_dict())
    if problems:
        raise CheckpointError(f"{path} is not of its {source}'s network: {problems}")
    model = build(about.model)
    model.load_state_dict(tensors)
    return Weights(model, about)


def _read_about(path: Path) -> About:
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise CheckpointError(f"{path} is larger than a configuration can be")
        value = json.loads(path.read_bytes())
        if value.get("format") != FORMAT:
            raise CheckpointError(f"{path} has the format {value.get('format')!r}, not {FORMAT!r}")
        return About(
            model=TypeAdapter(ModelConfig).validate_json(json.dumps(value["model"])),
            loss=LossConfig.model_validate_json(json.dumps(value["loss"])),
            scale=float(value["scale"]),
            step=int(value["step"]),
            metrics=dict(value["metrics"]),
            measured=value["measured"],
            recipe=dict(value["recipe"]),
        )
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is not a weights configuration: {reason}") from None


def model_card(model: LatentModel, about: About, prior: FittedPrior | None = None) -> str:
    """The README.md that goes with the weights."""
    count = sum(parameter.numel() for parameter in model.parameters())
    rows = "\n".join(f"| {name} | {value} |" for name, value in about.metrics.items())
    measured = "Not measured yet:"
    if about.measured is not None:
        measured = f"On the validation split at step {about.measured:,}:"
    drawn = "`dvae sample` draws from N(0, I): no prior was fitted to the latents."
    if prior:
        drawn = f"`dvae sample` draws from {prior}; with `--prior normal` from N(0, I)."
    return f"""---
library_name: dvae
pipeline_tag: unconditional-image-generation
tags: [vae, {about.model.name}]
---

# {about.model.name}, {count:,} parameters, step {about.step:,}

A variational autoencoder trained with dvae {__version__}. Pictures are {model.image_size} pixels
square, the latent has {model.latent_dim:,} numbers, the likelihood is {about.loss.likelihood} with a
scale of {about.scale:.3f} grey levels, and the KL term weighs {about.loss.beta:g}.

    dvae sample THIS_FOLDER --count 25 --out grid.png

{drawn}

```python
from dvae.weights import Weights

weights = Weights.from_pretrained("THIS_FOLDER")
images = weights.model.decode(torch.randn(25, {", ".join(map(str, model.latent_shape))}))  # (25, 3, H, W) in about [-1, 1]
```

{measured}

| metric | value |
| --- | --- |
{rows}

`model.safetensors` opens with safetensors alone; `config.json` says which network it belongs to.
"""


def resolve_device(name: str | None = None) -> torch.device:
    """The named device, else the accelerator that is there, else the CPU."""
    if name == "meta":
        raise UserError("--device=meta holds no numbers: give cpu, cuda, mps …")
    if name:
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--device={name} can't be used: {reason}") from None
    found = torch.accelerator.current_accelerator()
    return found if found is not None else torch.device("cpu")
