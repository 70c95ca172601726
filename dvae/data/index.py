"""What is where: the manifest of a folder of shards and the offset index of each shard.

    FOLDER/manifest.json            splits -> shards: name, bytes, SHA-256, samples, index
    FOLDER/train-000000.tar         a plain WebDataset tar
    FOLDER/train-000000.index.npy   one `SAMPLE` row a sample: where its bytes lie in the tar

A sample id runs over the shards of a split in the manifest's order: 0 … N-1.
"""

import errno
import hashlib
import io
import json
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from dvae.errors import DataError, UserError
from dvae.files import MANIFEST, write_bytes, write_json

FORMAT = "dvae-shards/2"
_INDEX_HEADER = 4096  # bytes, more than numpy's ever is
# What some program takes for a command, a URL, an option, a variable or a pattern.
_UNSAFE = re.compile(r"[-.]|.*[/\\:|$`{}*?\x00-\x1f]|(?!.*\.tar$)", re.DOTALL)

# One row of an index. Offsets count from the first byte of the tar to the member's first data byte.
SAMPLE = np.dtype(
    [
        ("offset", "<u8"),
        ("size", "<u8"),
        ("crc32", "<u4"),  # of the picture's bytes, as zlib.crc32 gives it
        ("orientation", "u1"),  # EXIF orientation 1 … 8; 1 is upright
        ("json_offset", "<u8"),
        ("json_size", "<u8"),  # 0: the sample has no JSON member
        ("json_crc32", "<u4"),  # of the JSON member's bytes
    ]
)


@dataclass(frozen=True, slots=True)  # a manifest may name a million
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

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the shards' names, digests and counts: equal if and only if the data are."""
        digest = hashlib.sha256(b"[")
        encode = json.JSONEncoder(sort_keys=True).encode
        names = [field.name for field in fields(Shard)]
        for number, shard in enumerate(self.shards):  # as JSON, but never all of it at once
            text = encode({name: getattr(shard, name) for name in names})
            digest.update((", " * (number > 0) + text).encode())
        digest.update(b"]")
        return digest.hexdigest()


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
        DataError: the index is missing, or isn't the one that the manifest names.
    """
    path = folder / shard.index_name
    try:
        data = path.read_bytes()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # no fault of the index
        raise DataError(f"{path} cannot be read ({error.strerror}): {_remedy(folder)}") from None
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise DataError(f"{path} is not the index that {MANIFEST} names: {_remedy(folder)}")
    rows = _rows(data, shard.samples)
    if rows is None:
        raise DataError(f"{path} does not hold {shard.samples} rows: {_remedy(folder)}")
    ends = np.maximum(rows["offset"] + rows["size"], rows["json_offset"] + rows["json_size"])
    numbers = [
        rows[name] for name in ("offset", "size", "json_offset", "json_size")
    ]  # sums may wrap
    if max(values.max(initial=0) for values in (ends, *numbers)) > shard.bytes:
        raise DataError(f"{path} points past the end of {shard.name}: {_remedy(folder)}")
    return rows


def _rows(data: bytes, samples: int) -> np.ndarray | None:
    """The rows that an index file holds, None where it isn't one of so many samples.

    Its header is compared, not parsed: numpy's parser fails in too many ways on a damaged one.
    """
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(SAMPLE)
    head = {"descr": descr, "fortran_order": False, "shape": (samples,)}
    np.lib.format.write_array_header_1_0(file, head)
    expected = file.getvalue()
    start = 10 + int.from_bytes(data[8:10], "little")  # bytes; the padding is numpy's own affair
    is_same = data[:8] == expected[:8] and data[10:start].rstrip() == expected[10:].rstrip()
    if not is_same or len(data) != start + samples * SAMPLE.itemsize:
        return None
    return np.frombuffer(data[start:], SAMPLE).copy()


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
                f"{folder / MANIFEST} has the format {str(value['format'])[:60]!r}, not {FORMAT!r}: "
                f"{_remedy(folder)}"
            )
        splits = {
            str(name): Split(folder, str(name), tuple(_shard(s, folder) for s in shards))
            for name, shards in value["splits"].items()
        }
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise UserError(
            f"{folder / MANIFEST} lacks an entry, or has a wrong one: {_remedy(folder)}"
        ) from None
    names = [shard.name for split in splits.values() for shard in split.shards]
    if len(set(names)) < len(names):
        raise UserError(f"{folder / MANIFEST} names a shard twice: {_remedy(folder)}")
    return splits


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


def data_differences(before: Sequence[Shard], now: Sequence[Shard]) -> list[str]:
    """What changed from one list of shards to another, in a few lines; [] where nothing did."""
    old, new = _by_name(before), _by_name(now)
    both = [name for name in new if name in old]
    found = {
        "removed": [name for name in old if name not in new],
        "added": [name for name in new if name not in old],
        "with another number of samples": [n for n in both if new[n].samples != old[n].samples],
        "with other bytes": [
            n for n in both if new[n].samples == old[n].samples and new[n] != old[n]
        ],
    }
    lines = [
        f"{len(names)} shards {what} ({_few(names)})" for what, names in found.items() if names
    ]
    kept = [name for name in old if name in new]
    moved = [(was, is_now) for was, is_now in zip(kept, both, strict=True) if was != is_now]
    if moved:
        lines.append(f"another order of the shards: {moved[0][1]} where {moved[0][0]} was")
    samples = [sum(shard.samples for shard in shards) for shards in (before, now)]
    if samples[0] != samples[1]:
        lines.append(f"{samples[0]} samples became {samples[1]}")
    return lines


def _by_name(shards: Sequence[Shard]) -> dict[str, Shard]:
    """Shards by their names; where folders hold equal ones, the later are numbered."""
    found: dict[str, Shard] = {}
    times: Counter[str] = Counter()
    for shard in shards:
        times[shard.name] += 1
        again = f" #{times[shard.name]}" if times[shard.name] > 1 else ""
        found[shard.name + again] = shard
    return found


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def missing_shards(split: Split) -> list[str]:
    """What is wrong with the files of a split by their presence and sizes: one line each."""
    problems = []
    for shard in split.shards:
        size = _size(path := split.folder / shard.name)
        if size is None:
            problems.append(f"{path} is missing")
        elif size != shard.bytes:
            problems.append(f"{path} has {size} of {shard.bytes} bytes")
        size = _size(path := split.folder / shard.index_name)
        if size is None:
            problems.append(f"{path} is missing")
        elif size > shard.samples * SAMPLE.itemsize + _INDEX_HEADER:
            problems.append(f"{path} is too large for {shard.samples} samples")
    return problems


def _size(path: Path) -> int | None:
    """The bytes of a plain file; None where there is none: a FIFO would wait for ever."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_size if stat.S_ISREG(state.st_mode) else None


def is_shard_name(name: str) -> bool:
    """Whether a manifest may name a shard so: a plain file name that nothing takes for more."""
    return _UNSAFE.match(name) is None


def _shard(value: dict[str, Any], folder: Path) -> Shard:
    shard = Shard(
        name=str(value["name"]),
        bytes=int(value["bytes"]),
        sha256=str(value["sha256"]),
        samples=int(value["samples"]),
        index_sha256=str(value["index_sha256"]),
    )
    if not is_shard_name(shard.name):
        raise UserError(
            f"{folder / MANIFEST} names a shard {shard.name[:60]!r}: not a plain file name that ends "
            f"in .tar: {_remedy(folder)}"
        )
    if not 0 <= shard.samples < 2**40:
        raise ValueError(shard.samples)
    return shard


def _remedy(folder: Path) -> str:
    return f"run python -m shards.index {folder}"
