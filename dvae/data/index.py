"""What is where: the offset index of a shard, one `SAMPLE` row a sample.

Rows say where the picture and its JSON lie in the tar, so that both are read without walking it.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dvae.data.manifest import Shard, Split, remedy
from dvae.data.storage import Location, Store, StoreError, open_store
from dvae.errors import DataError
from dvae.files import MANIFEST, write_bytes

_INDEX_HEADER = 4096  # bytes, more than numpy's ever is
_CHECKED = 16  # shards of a remote split that are asked for before a run starts

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


class Extent(NamedTuple):
    """Where a member's bytes lie in its tar, and what they are."""

    offset: int  # of the first one
    size: int
    crc32: int


class Row(NamedTuple):
    """A row of an index."""

    picture: Extent
    orientation: int
    json: Extent


def row_of(rows: np.ndarray, number: int) -> Row:
    """One of the (n,) `SAMPLE` rows, read by one call: every picture pays for it."""
    offset, size, crc32, orientation, *json = rows[number].item()
    return Row(Extent(offset, size, crc32), orientation, Extent(*json))


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


def read_index(location: Location, shard: Shard) -> np.ndarray:
    """The (n,) `SAMPLE` rows of a shard.

    Raises:
        DataError: the index is missing, or isn't the one that the manifest names.
    """
    store = open_store(location)
    path = f"{store.shown}/{shard.index_name}"
    limit = shard.samples * SAMPLE.itemsize + _INDEX_HEADER
    try:
        data = store.read_whole(shard.index_name, limit)
        if store.is_remote and not _is_named(data, shard):  # what came may be wrong by chance
            data = store.read_whole(shard.index_name, limit)
    except StoreError as error:
        if store.is_remote:
            raise
        raise DataError(f"{error}: {remedy(store)}") from None
    if not _is_named(data, shard):
        raise DataError(f"{path} is not the index that {MANIFEST} names: {remedy(store)}")
    rows = _rows(data, shard.samples)
    if rows is None:
        raise DataError(f"{path} does not hold {shard.samples} rows: {remedy(store)}")
    ends = np.maximum(rows["offset"] + rows["size"], rows["json_offset"] + rows["json_size"])
    fields = rows["offset"], rows["size"], rows["json_offset"], rows["json_size"]
    if max(values.max(initial=0) for values in (ends, *fields)) > shard.bytes:  # sums may wrap
        raise DataError(f"{path} points past the end of {shard.name}: {remedy(store)}")
    return rows


def _is_named(data: bytes, shard: Shard) -> bool:
    return hashlib.sha256(data).hexdigest() == shard.index_sha256


def _rows(data: bytes, samples: int) -> np.ndarray | None:
    """The rows that an index file holds, None where it isn't one of so many samples.

    Its header is compared, not parsed: numpy's parser fails in too many ways on a damaged one.
    """
    expected = _header(samples)
    start = 10 + int.from_bytes(data[8:10], "little")  # bytes; the padding is numpy's own affair
    is_same = data[:8] == expected[:8] and data[10:start].rstrip() == expected[10:].rstrip()
    if not is_same or len(data) != start + samples * SAMPLE.itemsize:
        return None
    return np.frombuffer(data, SAMPLE, offset=start).copy()


def _header(samples: int) -> bytes:
    """What an index file of so many samples begins with."""
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(SAMPLE)
    head = {"descr": descr, "fortran_order": False, "shape": (samples,)}
    np.lib.format.write_array_header_1_0(file, head)
    return file.getvalue()


HEADER = len(_header(0))  # bytes; the same for any number of samples


def missing_shards(split: Split) -> list[str]:
    """What is wrong with the files of a split by their presence and sizes: one line each.

    Of remote tars only some are asked for, evenly spread: a wrong address shows in any of them.
    """
    problems = []
    for shard in _sparse(split.shards) if split.tars.is_remote else split.shards:
        problems += _wrong_size(split.tars, shard.name, shard.bytes, shard.bytes)
    for shard in _sparse(split.shards) if split.store.is_remote else split.shards:
        most = shard.samples * SAMPLE.itemsize + _INDEX_HEADER
        problems += _wrong_size(split.store, shard.index_name, 0, most)
    return problems


def _sparse(shards: Sequence[Shard]) -> Sequence[Shard]:
    return shards[:: -(-len(shards) // _CHECKED) or 1]


def _wrong_size(store: Store, name: str, least: int, most: int) -> list[str]:
    try:
        size = store.size(name)
    except StoreError as error:
        return [str(error)]
    if least <= size <= most:
        return []
    wrong = f"has {size} of {most} bytes" if least else f"is too large: {size} bytes"
    return [f"{store.shown}/{name} {wrong}"]


def tell_missing(split: Split) -> str:
    """A line that names the files of a split that are missing or have another size; "" if none are."""
    problems = missing_shards(split)
    if not problems:
        return ""
    shown = "; ".join(problems[:5]) + (" …" if len(problems) > 5 else "")
    return (
        f"{len(problems)} files of {len(split.shards)} shards are not what {split.store.shown}'s "
        f"manifest says: {shown}"
    )
