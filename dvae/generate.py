"""Pictures from weights: samples, reconstructions, interpolations; and latents from pictures."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from dvae.data.ahead import evaluation_ahead
from dvae.data.batches import Loader, Pictures, first_batch
from dvae.data.decode import Crop, decode
from dvae.data.formats import MAX_PIXELS, SUFFIXES
from dvae.data.manifest import find_split
from dvae.data.plans import evaluation_plan
from dvae.data.reader import BadSample, Picture, Reader
from dvae.data.storage import Location
from dvae.errors import UserError
from dvae.evaluate import telling_bad
from dvae.files import whole_folder
from dvae.latents import interpolate
from dvae.pictures import batch_images, grid, to_network
from dvae.weights import Weights

BATCH = 64  # pictures decoded or encoded at a time


@torch.no_grad()
def sample(weights: Weights, count: int, seed: int, temperature: float) -> Tensor:
    """New pictures from z ~ N(0, temperature^2 I): (count, 3, S, S) in about [-1, 1], on the CPU.

    Raises:
        UserError: the network has no prior to draw from.
    """
    if not weights.model.is_variational:
        raise UserError(
            "these weights are of a plain autoencoder: nothing says where its codes lie, so it "
            "can't be sampled; take a VAE's weights"
        )
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, *weights.model.latent_shape, generator=generator) * temperature
    return _decode(weights, z)


@torch.no_grad()
def reconstruct(weights: Weights, images: Tensor) -> Tensor:
    """(n, 3, S, S) in [-1, 1] -> what the posterior's means decode to, on the CPU."""
    return _decode(weights, _encode(weights, images)[0])


@torch.no_grad()
def between(weights: Weights, first: Path, second: Path, count: int) -> Tensor:
    """From one picture to another through the latent: (count, 3, S, S), on the CPU."""
    ends, _ = _encode(weights, _network_input(weights, [first, second]))
    return _decode(weights, interpolate(ends[0], ends[1], count))


def pictures_of(weights: Weights, sources: list[Path], count: int) -> Tensor:
    """The first pictures of files, folders of files, or a folder of shards: (n, 3, S, S).

    Raises:
        UserError: there is none, or one can't be read.
    """
    if len(sources) == 1 and (sources[0] / "manifest.json").is_file():
        return _of_shards(weights, sources[0], count)
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
def encode_shards(weights: Weights, shards: Location, split: str, out: Path) -> int:
    """Write the posterior of every picture of a split; returns how many there are.

    OUT/latents.safetensors: ids (N,), mean (N, *latent_shape) and, of a VAE, logvar; OUT/samples.jsonl: the
    shard, key and label of each row; OUT/manifest.json. Bad pictures have no row.
    """
    if out.exists():
        raise UserError(f"{out} exists: give the name of a new folder")
    reader = Reader(find_split(shards, split))
    pictures = Pictures(reader, weights.model.image_size)
    plan = evaluation_ahead(reader, evaluation_plan(len(reader), BATCH, 0, 1))
    ids, means, logvars = [], [], []
    with Loader(plan, pictures) as batches:
        bar = tqdm(batches, total=-(-len(reader) // BATCH), unit="batch", disable=None)
        for batch in telling_bad(bar):
            good = batch.weights > 0
            mean, logvar = _encode(weights, batch_images(batch, torch.device("cpu"), torch.float32))
            ids.append(torch.from_numpy(batch.ids[good]))
            means.append(mean[torch.from_numpy(good)])
            if logvar is not None:
                logvars.append(logvar[torch.from_numpy(good)])
    tensors = {"ids": torch.cat(ids), "mean": torch.cat(means)}
    if logvars:
        tensors["logvar"] = torch.cat(logvars)
    with whole_folder(out) as temporary:
        save_file(
            {k: v.contiguous() for k, v in tensors.items()}, temporary / "latents.safetensors"
        )
        with (temporary / "samples.jsonl").open("w") as file:
            for number in tensors["ids"].tolist():
                about = {**vars(reader.place(number)), "label": reader.about(number).get("label")}
                file.write(json.dumps(about, sort_keys=True) + "\n")
    return len(tensors["ids"])


def _device(weights: Weights) -> torch.device:
    return next(weights.model.parameters()).device


def _encode(weights: Weights, images: Tensor) -> tuple[Tensor, Tensor | None]:
    parts = [weights.model.encode(part.to(_device(weights))) for part in images.split(BATCH)]
    mean = torch.cat([mean for mean, _ in parts]).cpu()
    logvars = [logvar for _, logvar in parts if logvar is not None]
    return mean, torch.cat(logvars).cpu() if logvars else None


def _decode(weights: Weights, z: Tensor) -> Tensor:
    parts = [weights.model.decode(part.to(_device(weights))).cpu() for part in z.split(BATCH)]
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


def _of_shards(weights: Weights, folder: Path, count: int) -> Tensor:
    reader = Reader(find_split(folder, "val"))
    pictures = Pictures(reader, weights.model.image_size)
    batch = first_batch(pictures, count)
    images = batch_images(batch, torch.device("cpu"), torch.float32)
    return images[torch.from_numpy(batch.weights > 0)]


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        return sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return [source]
