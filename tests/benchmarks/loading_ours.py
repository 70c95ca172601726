"""Our loader, the bare decoder that bounds it, and what only ours is asked: quality, resuming, memory."""

import io
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from loading_job import BATCH, LEAST_SIDE, Job

from dvae.data.batches import Loader, Pictures
from dvae.data.decode import Crop, decode, reduction
from dvae.data.manifest import find_split
from dvae.data.order import Order
from dvae.data.plans import training_plan
from dvae.data.reader import Picture, Reader

FAR = 10**6  # steps
MANY = 10**5  # shards
SOME = 200  # pictures whose quality is measured


def reader_of(shards: Path, verify: bool = True) -> Reader:
    """The training split of a folder of shards."""
    return Reader(find_split(shards, "train"), verify=verify)


def loader_of(shards: Path, size: int, threads: int, step: int = 0) -> Loader:
    """Our loader, as the trainer makes it."""
    reader = reader_of(shards)
    pictures = Pictures(reader, size, LEAST_SIDE, flip=True, random_place=True)
    order = Order(reader.splits[0].counts, 0, BATCH)
    return Loader(training_plan(order, step, 0, 1), pictures, threads)


def ours(job: Job, shards: str = "shards") -> Iterator[torch.Tensor]:
    """Our batches, mirrored here: the trainer does it on the device."""
    with loader_of(job.data / shards, job.size, job.workers) as loader:
        for batch in loader:
            planes = batch.images.permute(0, 3, 1, 2)
            for slot in np.flatnonzero(batch.flips).tolist():  # indexing all at once is slower
                planes[slot : slot + 1] = planes[slot : slot + 1].flip(-1)
            yield batch.images


def ours_stored(job: Job) -> Iterator[torch.Tensor]:
    """The same from shards that were packed at the training size."""
    return ours(job, f"stored-{job.size}")


def bare(job: Job) -> Iterator[list[None]]:
    """libjpeg-turbo alone: the same bytes at the same scale, from memory into one buffer."""
    reader = reader_of(job.data / "shards")
    calls = []
    for sample in range(len(reader)):
        data = reader.picture(sample).data
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        scale = reduction(round(min(height, width) * (1 + LEAST_SIDE) / 2), job.size)
        calls.append((data, -(-height // scale), -(-width // scale)))
    random.shuffle(calls)
    buffer = np.empty(4 << 20, dtype=np.uint8)
    while True:
        for start in range(0, len(calls) - BATCH, BATCH):
            for data, height, width in calls[start : start + BATCH]:
                simplejpeg.decode_jpeg(
                    data, "RGB", min_height=height, min_width=width, min_factor=1, buffer=buffer
                )
            yield [None] * BATCH


def quality(data: Path, size: int) -> dict[str, float]:
    """PSNR against a full decode and Pillow's antialiased resize of the same square, in dB.

    The square is snapped to the scaled grid: whole pixels of the scale that ours decodes at.
    """
    rng = np.random.default_rng(0)
    values = []
    for path in sorted((data / "pictures").iterdir())[:SOME]:
        crop = Crop(rng.uniform(LEAST_SIDE, 1), rng.uniform(), rng.uniform())
        out = np.empty((size, size, 3), dtype=np.uint8)
        decode(Picture(path.read_bytes(), 1), out, crop, 10**8)
        error = (out.astype(float) - _by_pillow(path.read_bytes(), size, crop)) ** 2
        values.append(10 * np.log10(255**2 / max(error.mean(), 1e-3)))
    return {"mean": float(np.mean(values)), "min": float(np.min(values))}


def _by_pillow(data: bytes, size: int, crop: Crop) -> np.ndarray:
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = round(crop.side * min(image.size))
    x, y = round(crop.x * (image.width - side)), round(crop.y * (image.height - side))
    scale = reduction(side, size)
    x, y, side = (value // scale * scale for value in (x, y, side))
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    return np.asarray(resized)


def resuming(data: Path, size: int) -> dict[str, float]:
    """CPU-seconds to the first batch from step 0 and from step 10^6, taken in turn."""
    taken: dict[int, list[float]] = {0: [], FAR: []}
    for _ in range(12):
        for step, values in taken.items():
            began = time.process_time()
            with loader_of(data / "shards", size, 1, step) as loader:
                next(loader)
                values.append(time.process_time() - began)
    ratios = [far / near for near, far in zip(taken[0][2:], taken[FAR][2:], strict=True)]
    return {"at_0": statistics.median(taken[0]), "ratio": statistics.median(ratios)}


def memory(data: Path, size: int, shards: int) -> dict[str, float]:
    """Peak RSS above the import of torch, in MB, after 20 batches from so many shards."""
    before = _peak()
    with loader_of(many_shards(data, shards), size, 2) as loader:
        for _ in range(20):
            next(loader)
    return {"mb": _peak() - before}


def many_shards(data: Path, count: int) -> Path:
    """A folder whose manifest names so many shards: hard links to a few copies of one."""
    folder = data / f"many-{count}"
    if (folder / "manifest.json").exists():
        return folder
    folder.mkdir(exist_ok=True)
    manifest = json.loads((data / "shards" / "manifest.json").read_text())
    split = next(iter(manifest["splits"].values()))
    shard = split[0]
    sources = [data / "shards" / shard["name"], data / "shards" / _index_name(shard["name"])]
    entries = []
    for number in range(count):
        name = f"train-{number:06}.tar"
        for source, target in zip(sources, (name, _index_name(name)), strict=True):
            _link(source, folder / target, folder / f"copy-{number // 50000}-{source.name}")
        entries.append({**shard, "name": name})
    manifest["splits"] = {"train": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _link(source: Path, target: Path, copy: Path) -> None:
    if not copy.exists():  # ext4 takes 65,000 links to a file
        copy.write_bytes(source.read_bytes())
    os.link(copy, target)


def _index_name(shard: str) -> str:
    return shard.removesuffix(".tar") + ".index.npy"


def _peak() -> float:
    """Peak RSS in MB; not ru_maxrss, which begins with what the process that forked this one held."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    question, data, *numbers = sys.argv[1:]
    answer = {"quality": quality, "resuming": resuming, "memory": memory}[question]
    sys.stdout.write(json.dumps(answer(Path(data), *map(int, numbers))))
