"""Latents of a split of shards: encoding, writing and reading them."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from dvae.data.ahead import evaluation_ahead
from dvae.data.batches import Loader, Pictures
from dvae.data.manifest import find_split
from dvae.data.plans import evaluation_plan
from dvae.data.reader import Reader
from dvae.data.storage import Location
from dvae.errors import CheckpointError, DataError, UserError
from dvae.evaluate import telling_bad
from dvae.files import damage, whole_folder
from dvae.models.blocks import LOGVAR_RANGE
from dvae.pictures import batch_images
from dvae.tensors import read_tensors, write_tensors
from dvae.weights import Weights

BATCH = 64  # pictures encoded at a time
LATENTS, SAMPLES = "latents.safetensors", "samples.jsonl"


@dataclass(frozen=True)
class Latents:
    """The posteriors of pictures, a row each."""

    ids: Tensor  # (N,) sample ids
    mean: Tensor  # (N, *shape)
    logvar: Tensor | None  # (N, *shape); None of a plain autoencoder
    about: list[dict[str, object]]  # shard, key, offset and label of each

    @property
    def variance(self) -> Tensor:
        """(N, *shape) of each posterior."""
        if self.logvar is None:
            return torch.zeros_like(self.mean)
        return self.logvar.clamp(*LOGVAR_RANGE).exp()

    @property
    def labels(self) -> list[str]:
        """Of each row; empty where a picture has none."""
        return [str(row.get("label") or "") for row in self.about]


def encode_images(weights: Weights, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """(n, 3, S, S) in [-1, 1] -> the posteriors' mean, and logvar where there is one, on the CPU."""
    parts = [weights.model.encode(part.to(weights.device)) for part in images.split(BATCH)]
    mean = torch.cat([mean for mean, _ in parts]).cpu()
    logvars = [logvar for _, logvar in parts if logvar is not None]
    return mean, torch.cat(logvars).cpu() if logvars else None


@torch.no_grad()
def encode_split(weights: Weights, shards: Location, split: str, mirror: bool = False) -> Latents:
    """The posterior of every good picture of a split; with `mirror`, then of each mirrored.

    Raises:
        DataError: none of them can be read.
    """
    reader = Reader(find_split(shards, split))
    pictures = Pictures(reader, weights.model.image_size)
    plan = evaluation_ahead(reader, evaluation_plan(len(reader), BATCH, 0, 1))
    ids: list[int] = []
    found: list[list[tuple[Tensor, Tensor | None]]] = [[], []]
    with Loader(plan, pictures) as batches:
        bar = tqdm(batches, total=-(-len(reader) // BATCH), unit="batch", disable=None)
        for batch in telling_bad(bar):
            good = batch.weights > 0
            images = batch_images(batch, torch.device("cpu"), torch.float32)
            images = images[torch.from_numpy(good)]
            if len(images):
                ids += batch.ids[good].tolist()
                found[0].append(encode_images(weights, images))
                if mirror:
                    found[1].append(encode_images(weights, images.flip(-1)))
    if not ids:
        raise DataError(f"none of the {len(reader)} pictures of {shards} can be read")
    parts = found[0] + found[1]
    logvars = [logvar for _, logvar in parts if logvar is not None]
    about = [{**vars(reader.place(n)), "label": reader.about(n).get("label")} for n in ids]
    if mirror:
        ids, about = ids * 2, about + [{**row, "mirrored": True} for row in about]
    return Latents(
        torch.tensor(ids),
        torch.cat([mean for mean, _ in parts]),
        torch.cat(logvars) if logvars else None,
        about,
    )


def encode_shards(
    weights: Weights, shards: Location, split: str, out: Path, mirror: bool = False
) -> int:
    """Write the posterior of every picture of a split; returns how many there are.

    OUT/latents.safetensors: ids (N,), mean (N, *shape) and, of a VAE, logvar; its metadata name the
    weights. OUT/samples.jsonl: the shard, key and label of each row; OUT/manifest.json. Bad pictures
    have no row.
    """
    if out.exists():
        raise UserError(f"{out} exists: give the name of a new folder")
    latents = encode_split(weights, shards, split, mirror)
    tensors = {"ids": latents.ids, "mean": latents.mean}
    if latents.logvar is not None:
        tensors["logvar"] = latents.logvar
    with whole_folder(out) as temporary:
        write_tensors(tensors, temporary / LATENTS, {"weights": weights.digest})
        with (temporary / SAMPLES).open("w") as file:
            for row in latents.about:
                file.write(json.dumps(row, sort_keys=True) + "\n")
    return len(latents.ids)


def read_latents(folder: Path, weights: Weights) -> Latents:
    """What `encode_shards` wrote.

    Raises:
        CheckpointError: the folder is damaged, or its latents are of other weights.
    """
    wrong = damage(folder)
    if wrong:
        raise CheckpointError(f"{folder} is damaged: {wrong}: encode the shards again")
    tensors = read_tensors(folder / LATENTS)
    with safe_open(folder / LATENTS, "pt") as file:
        owner = (file.metadata() or {}).get("weights")
    if owner != weights.digest:
        raise CheckpointError(f"{folder} holds latents of other weights: encode the shards again")
    try:
        rows = [json.loads(line) for line in (folder / SAMPLES).read_text().splitlines()]
    except (OSError, ValueError, RecursionError):
        rows = []
    if "mean" not in tensors or len(rows) != len(tensors["mean"]):
        raise CheckpointError(f"{folder} holds no latents of this version: encode the shards again")
    return Latents(tensors["ids"], tensors["mean"], tensors.get("logvar"), rows)
