"""TensorBoard: the loss and its terms, what was measured, and grids to look at."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import summary

from dvae.events import EventFile
from dvae.health import Finding
from dvae.latents import interpolate
from dvae.metrics import Evaluation
from dvae.models.blocks import LatentModel
from dvae.pictures import grid

INTERPOLATIONS = 8  # pictures from one end to the other
BINS = 64  # of a histogram


class Monitor:
    """Writes a run's TensorBoard folder; on other processes than the first it does nothing.

    Args:
        folder: of the events.
        step: the run goes on from it: what an earlier life wrote after it is hidden (no zigzag).
        active: whether this process writes.
    """

    def __init__(self, folder: Path, step: int, active: bool) -> None:
        self.events = EventFile(folder, step) if active else None
        self._started = time.monotonic()
        self._waited = 0.0  # seconds
        self._images = 0

    def count(self, images: int, waited: float) -> None:
        """Note a step's pictures (over all processes) and the seconds it waited for data."""
        self._images += images
        self._waited += waited

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write values, with the speed since the last call."""
        seconds = max(1e-9, time.monotonic() - self._started)
        speed = {"images_per_second": self._images / seconds, "wait": self._waited / seconds}
        self._write({f"train/{name}": value for name, value in values.items()}, step)
        self._write({f"speed/{name}": value for name, value in speed.items()}, step)
        self._started, self._waited, self._images = time.monotonic(), 0.0, 0

    def sources(self, drawn: dict[str, int], step: int) -> None:
        """Write how many samples of each source all processes have drawn since the run began."""
        self._write({f"data/source_{name}": count for name, count in drawn.items()}, step)

    def evaluation(self, result: Evaluation, step: int) -> None:
        """Write what was measured on the validation split."""
        names = ("psnr", "ssim", "nll", "kl", "negative_elbo", "bits_per_dim", "active_units")
        values = {f"val/{name}": getattr(result, name) for name in names}
        values["val/mean_std"] = result.mean_std
        self._write({name: value for name, value in values.items() if value is not None}, step)
        if self.events:
            kl = torch.tensor(result.kl_per_dim)
            self.events.add(summary.histogram("val/kl_per_dim", kl, BINS), step)
            self.events.flush()

    def health(self, found: Sequence[Finding], step: int) -> None:
        """Write each ailment's number, and how many ail the run."""
        values = {f"health/{finding.name}": finding.value for finding in found}
        self._write(values | {"health/ill": float(sum(f.is_ill for f in found))}, step)

    @torch.no_grad()
    def pictures(
        self, model: LatentModel, fixed: Tensor, z: Tensor, columns: int, step: int
    ) -> None:
        """Draw inputs over reconstructions, samples from fixed z, and interpolations.

        Args:
            model: in evaluation mode.
            fixed: (n, 3, H, W) in [-1, 1], n >= 2, the same at every call.
            z: (m, *latent_shape) of N(0, I), the same at every call.
            columns: of the sample grid.
            step: of the run.
        """
        if not self.events:
            return
        mean = model.encode(fixed)[0]
        both = torch.cat([fixed, model.decode(mean)])
        self._image("reconstructions", grid(both, len(fixed)), step)
        if model.is_variational:
            self._image("samples", grid(model.decode(z), columns), step)
        lines = [
            interpolate(a, b, INTERPOLATIONS) for a, b in zip(mean[:-1], mean[1:], strict=True)
        ]
        if lines:
            between = model.decode(torch.cat(lines[:4]))
            self._image("interpolations", grid(between, INTERPOLATIONS), step)
        self.events.flush()

    def text(self, recipe: str, state: dict[str, object], step: int) -> None:
        """Write the recipe and the state as text."""
        if self.events:
            self.events.add(summary.text("recipe", _verbatim(recipe)), step)
            self.events.add(summary.text("state", _verbatim(json.dumps(state, indent=1))), step)
            self.events.flush()

    def _image(self, name: str, image: Tensor, step: int) -> None:
        if self.events:
            self.events.add(summary.image(name, image, dataformats="CHW"), step)

    def _write(self, values: Mapping[str, float], step: int) -> None:
        if self.events:
            for name, value in values.items():
                self.events.add(summary.scalar(name, value), step)
            self.events.flush()


def _verbatim(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())
