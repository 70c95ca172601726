"""Pictures from weights: samples, reconstructions, interpolations."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dvae.data.batches import Pictures, first_batch
from dvae.data.decode import Crop, decode
from dvae.data.formats import MAX_PIXELS, SUFFIXES
from dvae.data.manifest import find_split
from dvae.data.reader import BadSample, Picture, Reader
from dvae.data.storage import Location
from dvae.encode import encode_images
from dvae.errors import UserError
from dvae.latents import interpolate
from dvae.pictures import batch_images, grid, to_network
from dvae.prior import FlowPrior
from dvae.weights import Weights

BATCH = 64  # pictures decoded or encoded at a time


@dataclass(frozen=True)
class Sampling:
    """How z is drawn."""

    temperature: float = 1.0  # of the noise that z is made of
    normal: bool = False  # from N(0, I), though a prior was fitted
    label: str | None = None  # that a flow is asked for
    guidance: float = 1.0  # towards the label


def sample(weights: Weights, count: int, seed: int, how: Sampling | None = None) -> Tensor:
    """New pictures from the fitted prior, or N(0, I) where there is none.

    Returns:
        (count, 3, S, S) in about [-1, 1], on the CPU.
    """
    return decode_latents(weights, draw_latents(weights, count, seed, how or Sampling()))


def draw_latents(weights: Weights, count: int, seed: int, how: Sampling) -> Tensor:
    """Latents from the prior: (count, *shape), on the CPU.

    Raises:
        UserError: the network has no prior to draw from, or the prior has no such label.
        CheckpointError: the prior is damaged, or of other weights.
    """
    generator = torch.Generator().manual_seed(seed)
    prior = None if how.normal else weights.prior
    if how.label is not None and not (prior and prior.about.labels):
        raise UserError(
            f"--label={how.label} needs a flow prior that knows labels: dvae fit-prior … labels=true"
        )
    if prior and isinstance(prior.model, FlowPrior):
        prior.model.to(weights.device)
        return prior.model.draw(count, generator, how.temperature, how.label, how.guidance)
    if prior:
        return prior.model.draw(count, generator, how.temperature)
    if not weights.model.is_variational:
        raise UserError(
            "these weights are of a plain autoencoder: nothing says where its codes lie, so it "
            "can't be sampled; fit a prior with dvae fit-prior, or take a VAE's weights"
        )
    z = torch.randn(count, *weights.model.latent_shape, generator=generator)
    return z * how.temperature


@torch.no_grad()
def reconstruct(weights: Weights, images: Tensor) -> Tensor:
    """(n, 3, S, S) in [-1, 1] -> what the posterior's means decode to, on the CPU."""
    return decode_latents(weights, encode_images(weights, images)[0])


@torch.no_grad()
def between(weights: Weights, first: Path, second: Path, count: int) -> Tensor:
    """From one picture to another through the latent: (count, 3, S, S), on the CPU."""
    ends, _ = encode_images(weights, _network_input(weights, [first, second]))
    return decode_latents(weights, interpolate(ends[0], ends[1], count))


def pictures_of(weights: Weights, sources: list[Path], count: int) -> Tensor:
    """The first pictures of files, folders of files, or a folder of shards: (n, 3, S, S).

    Raises:
        UserError: there is none, or one can't be read.
    """
    if len(sources) == 1 and (sources[0] / "manifest.json").is_file():
        return of_shards(weights, sources[0], "val", count)
    files = [file for source in sources for file in _files(source)][:count]
    if not files:
        raise UserError(f"no picture in {', '.join(map(str, sources))} ({' '.join(SUFFIXES)})")
    return _network_input(weights, files)


def sheet_of_reconstructions(weights: Weights, images: Tensor, columns: int) -> Tensor:
    """Rows of inputs, each over the row of their reconstructions: (3, h, w) uint8."""
    decoded = reconstruct(weights, images)
    columns = min(columns, len(images))
    rows = []
    for start in range(0, len(images), columns):
        for pictures in (images, decoded):
            row = pictures[start : start + columns]
            rows += [
                row,
                torch.ones(columns - len(row), *row.shape[1:]),
            ]  # white fills the last row
    return grid(torch.cat(rows), columns)


@torch.no_grad()
def decode_latents(weights: Weights, z: Tensor) -> Tensor:
    """(n, *shape) -> (n, 3, S, S) in about [-1, 1], on the CPU."""
    parts = [weights.model.decode(part.to(weights.device)).cpu() for part in z.split(BATCH)]
    return torch.cat(parts)


def _network_input(weights: Weights, files: list[Path]) -> Tensor:
    """The centres of picture files: (n, 3, S, S) in [-1, 1]."""
    size = weights.model.image_size
    images = np.zeros((len(files), size, size, 3), dtype=np.uint8)
    for slot, file in zip(images, files, strict=True):
        try:
            # Orientation 0 is none of EXIF's: it sends the picture to the reader that looks it up.
            decode(Picture(file.read_bytes(), orientation=0), slot, Crop(), MAX_PIXELS)
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}") from None
        except BadSample as error:
            raise UserError(f"{file} is not a picture that can be used: {error}") from None
    return to_network(torch.from_numpy(images), torch.device("cpu"), torch.float32)


def of_shards(weights: Weights, shards: Location, split: str, count: int) -> Tensor:
    """The first pictures of a split, without the unreadable ones: (n, 3, S, S) in [-1, 1]."""
    reader = Reader(find_split(shards, split))
    batch = first_batch(Pictures(reader, weights.model.image_size), count)
    images = batch_images(batch, torch.device("cpu"), torch.float32)
    return images[torch.from_numpy(batch.weights > 0)]


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        return sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return [source]
