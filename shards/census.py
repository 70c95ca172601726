"""What a folder of shards holds, in numbers: read in one pass, a shard a thread."""

import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dvae.data.formats import FORMATS, MAX_PIXELS, UNREADABLE, to_rgb
from dvae.data.index import read_index
from dvae.data.manifest import Shard, Split
from shards.geometry import upright_size
from shards.sources import shown

SAMPLED = 1024  # pictures whose pixels are averaged, evenly spaced over all samples
TILES = 64  # pictures on the contact sheet, evenly spaced over the sampled ones
TILE = 96  # pixels, a side of a tile
_MAX_SIDE = 1 << 20  # pixels; a JSON that says more isn't believed
_MAX_LABEL = 200  # letters


class Task(NamedTuple):
    """A shard to read, and which of its samples to decode."""

    folder: Path
    split: str
    shard: Shard
    sampled: frozenset[int]
    tiled: frozenset[int]


@dataclass
class Census:
    """What was counted in one shard."""

    split: str
    shard: Shard
    sizes: list[int] = field(default_factory=list)  # bytes of each picture
    sides: list[tuple[int, int]] = field(default_factory=list)  # width, height of each, pixels
    labels: Counter[str] = field(default_factory=Counter)
    unlabelled: int = 0
    unreadable: int = 0
    moments: list[np.ndarray] = field(default_factory=list)  # (2, 3): mean and mean square, 0 … 1
    tiles: list[Image.Image] = field(default_factory=list)  # TILE x TILE, RGB


def tasks(splits: dict[str, Split]) -> list[Task]:
    """One task a shard; the sampled pictures depend on the number of samples only."""
    shards = [(split, shard) for split in splits.values() for shard in split.shards]
    total = sum(shard.samples for _, shard in shards)
    sampled = _spread(range(total), SAMPLED)
    tiled = _spread(sampled, TILES)
    made, start = [], 0
    for split, shard in shards:
        ids = range(start, start + shard.samples)
        chosen = [frozenset(i - start for i in group if i in ids) for group in (sampled, tiled)]
        made.append(Task(split.folder, split.name, shard, *chosen))
        start += shard.samples
    return made


def _spread(items: Sequence[int], count: int) -> list[int]:
    """`count` items, evenly spaced, or all of them."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def take_census(task: Task) -> Census:
    """Read one shard.

    Raises:
        UserError: its index isn't the manifest's.
        OSError: its tar can't be read.
    """
    census = Census(task.split, task.shard)
    with (task.folder / task.shard.name).open("rb") as file:
        for number, row in enumerate(read_index(task.folder, task.shard)):
            census.sizes.append(int(row["size"]))
            about = _json(file, row)
            sides = _sides(file, row, about)
            if sides:
                census.sides.append(sides)
            else:
                census.unreadable += 1
            label = about.get("label")
            if label is None:
                census.unlabelled += 1
            else:
                text = str(label)[:_MAX_LABEL].encode("utf-8", "surrogateescape")
                census.labels[shown(text)] += 1
            if sides and number in task.sampled:
                _look(census, file, row, number in task.tiled)
    return census


def _json(file: BinaryIO, row: np.void) -> dict[str, Any]:
    try:
        value = json.loads(os.pread(file.fileno(), int(row["json_size"]), int(row["json_offset"])))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _sides(file: BinaryIO, row: np.void, about: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height by the JSON, or else by the picture's header."""
    width, height = about.get("width"), about.get("height")
    if (
        type(width) is int
        and type(height) is int
        and 0 < min(width, height) <= max(width, height) <= _MAX_SIDE
    ):
        return width, height
    try:
        with _opened(file, row) as image:
            return upright_size(image.size, int(row["orientation"]))
    except UNREADABLE:
        return None


def _opened(file: BinaryIO, row: np.void) -> Image.Image:
    data = os.pread(file.fileno(), int(row["size"]), int(row["offset"]))
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _look(census: Census, file: BinaryIO, row: np.void, is_tile: bool) -> None:
    """Add a picture's pixels to the moments, and its tile to the sheet."""
    try:
        with _opened(file, row) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError
            image.draft("RGB", (2 * TILE, 2 * TILE))
            image.load()
            rgb = ImageOps.exif_transpose(to_rgb(image))
    except UNREADABLE:
        census.unreadable += 1
        return
    rgb.thumbnail((4 * TILE, 4 * TILE))
    values = np.asarray(rgb, np.float64) / 255
    census.moments.append(np.stack([values.mean((0, 1)), (values**2).mean((0, 1))]))
    if is_tile:
        census.tiles.append(ImageOps.pad(rgb, (TILE, TILE), color="white"))
