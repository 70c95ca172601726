"""What is where: the manifest of a folder of shards and the offset index of each shard.

    FOLDER/manifest.json            splits -> shards: name, bytes, SHA-256, samples, index
    FOLDER/train-000000.tar         a plain WebDataset tar
    FOLDER/train-000000.index.npy   one `SAMPLE` row a sample: where its bytes lie in the tar

A sample id runs over the shards of a split in the manifest's order: 0 … N-1.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from dvae.errors import UserError
from dvae.files import MANIFEST, write_bytes, write_json

FORMAT = "dvae-shards/1"

# One row of an index. Offsets count from the first byte of the tar to the member's first data byte.
SAMPLE = np.dtype(
    [
        ("offset", "<u8"),
        ("size", "<u8"),
        ("crc32", "<u4"),  # of the picture's bytes, as zlib.crc32 gives it
        ("orientation", "u1"),  # EXIF orientation 1 … 8; 1 is upright
        ("json_offset", "<u8"),
        ("json_size", "<u8"),  # 0: the sample has no JSON member
    ]
)


@dataclass(frozen=True)
class Shard:
    """A tar and its index, as the manifest names them."""

    name: str
    bytes: int
    sha256: str
    samples: int
    index_sha256: str

    @property
    def index_name(self) -> str:
        """The name of the offset index beside the tar."""
        return index_name(self.name)


@dataclass(frozen=True)
class Split:
    """The shards of one split, in the order that sample ids follow."""

    folder: Path
    name: str
    shards: tuple[Shard, ...]

    @property
    def counts(self) -> np.ndarray:
        """Samples in each shard: (S,) int64."""
        return np.array([shard.samples for shard in self.shards], dtype=np.int64)

    @property
    def digest(self) -> str:
        """SHA-256 over the shards' names, digests and counts: equal if and only if the data are."""
        text = json.dumps([asdict(shard) for shard in self.shards], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def index_name(shard_name: str) -> str:
    """`train-000000.tar` -> `train-000000.index.npy`."""
    return PurePath(shard_name).stem + ".index.npy"


def write_index(path: Path, samples: np.ndarray) -> str:
    """Write a shard's index, (n,) of `SAMPLE`, as a whole file; returns its SHA-256."""
    data = index_bytes(samples)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def index_bytes(samples: np.ndarray) -> bytes:
    """The file that holds an index, (n,) of `SAMPLE`: the same bytes for the same rows."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(samples, dtype=SAMPLE), allow_pickle=False)
    return buffer.getvalue()


def read_index(folder: Path, shard: Shard) -> np.ndarray:
    """The (n,) `SAMPLE` rows of a shard.

    Raises:
        UserError: the index is missing, or isn't the one that the manifest names.
    """
    path = folder / shard.index_name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {_remedy(folder)}") from None
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise UserError(f"{path} is not the index that {MANIFEST} names: {_remedy(folder)}")
    rows = np.load(io.BytesIO(data), allow_pickle=False)
    if rows.dtype != SAMPLE or len(rows) != shard.samples:
        raise UserError(f"{path} holds {len(rows)} rows, not {shard.samples}: {_remedy(folder)}")
    ends = np.maximum(rows["offset"] + rows["size"], rows["json_offset"] + rows["json_size"])
    largest = max(rows["size"].max(initial=0), rows["json_size"].max(initial=0))
    if max(ends.max(initial=0), largest) > shard.bytes:
        raise UserError(f"{path} points past the end of {shard.name}: {_remedy(folder)}")
    return rows


def write_shard_manifest(
    folder: Path, splits: Mapping[str, Sequence[Shard]], about: dict[str, Any]
) -> None:
    """Write the manifest of a folder of shards; the last file of a packing run."""
    value = {
        "format": FORMAT,
        "splits": {name: [asdict(s) for s in shards] for name, shards in splits.items()},
        "about": about,
    }
    write_json(folder / MANIFEST, value)


def read_splits(folder: Path) -> dict[str, Split]:
    """The splits of a folder of shards, by name.

    Raises:
        UserError: no such folder, no manifest, or one that doesn't have this module's form.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: make shards with python -m shards.pack first")
    try:
        value = json.loads((folder / MANIFEST).read_bytes())
    except OSError:
        raise UserError(f"{folder} has no {MANIFEST}: {_remedy(folder)}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{folder / MANIFEST} is not JSON: {_remedy(folder)}") from None
    try:
        if value["format"] != FORMAT:
            raise UserError(
                f"{folder / MANIFEST} has the format {value['format']!r}, not {FORMAT!r}"
            )
        return {
            str(name): Split(folder, str(name), tuple(_shard(s, folder) for s in shards))
            for name, shards in value["splits"].items()
        }
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise UserError(
            f"{folder / MANIFEST} lacks an entry, or has a wrong one: {_remedy(folder)}"
        ) from None


def find_split(folder: Path, name: str) -> Split:
    """The split `name` of a folder of shards, or its only one.

    Raises:
        UserError: there are several, and none has the name; or it holds no sample.
    """
    splits = read_splits(folder)
    if name not in splits and len(splits) != 1:
        raise UserError(f"{folder} has no split {name!r}: it has {', '.join(sorted(splits))}")
    split = splits.get(name) or next(iter(splits.values()))
    if not split.counts.sum():
        raise UserError(f"{folder} holds no sample in its split {split.name!r}: pack more pictures")
    return split


def missing_shards(split: Split) -> list[str]:
    """What is wrong with the tars of a split by their presence and sizes: one line each."""
    problems = []
    for shard in split.shards:
        path = split.folder / shard.name
        try:
            size = path.stat().st_size
        except OSError:
            problems.append(f"{path} is missing")
            continue
        if size != shard.bytes:
            problems.append(f"{path} has {size} of {shard.bytes} bytes")
    return problems


def _shard(value: dict[str, Any], folder: Path) -> Shard:
    shard = Shard(
        name=str(value["name"]),
        bytes=int(value["bytes"]),
        sha256=str(value["sha256"]),
        samples=int(value["samples"]),
        index_sha256=str(value["index_sha256"]),
    )
    if PurePath(shard.name).name != shard.name or not 0 <= shard.samples < 2**40:
        raise UserError(f"{folder / MANIFEST} names a shard {shard.name!r}: not a plain file name")
    return shard


def _remedy(folder: Path) -> str:
    return f"run python -m shards.index {folder}"
