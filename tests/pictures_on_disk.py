"""Small pictures for the tests of packing, and what a folder of shards holds."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from dvae.data.index import read_index
from dvae.data.manifest import read_splits
from shards.drawn_dogs import draw_dog
from tests.conftest import DOGS


def dogs(count: int, is_real: bool, kind: str = "JPEG") -> list[bytes]:
    """Photographs or drawn dogs, no two the same."""
    if is_real:
        paths = sorted((DOGS / "snapshots").glob("*.jpg"))[:count]
        return [path.read_bytes() for path in paths]
    return [drawn(number, kind) for number in range(count)]


def drawn(number: int, kind: str = "JPEG", side: int = 40) -> bytes:
    """A drawn dog."""
    return encoded(draw_dog(0, number, side)[0], kind)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    """A picture's bytes."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write_files(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Write files with their folders."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def samples(folder: Path) -> Iterator[tuple[str, bytes, dict]]:
    """The split, the picture's bytes and the JSON of each sample, read through the index."""
    for name, split in read_splits(folder).items():
        for shard in split.shards:
            data = (folder / shard.name).read_bytes()
            for row in read_index(folder, shard):
                start, note = int(row["offset"]), int(row["json_offset"])
                about = json.loads(data[note : note + int(row["json_size"])])
                yield name, data[start : start + int(row["size"])], about


def rejected(folder: Path) -> dict[str, str]:
    """The reason of each picture that was left out."""
    lines = (folder / "rejected.jsonl").read_bytes().splitlines()
    return {line["source"]: line["reason"] for line in map(json.loads, lines)}


def shard_bytes(folder: Path) -> dict[str, bytes]:
    """The tars of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}
