"""What is where: the manifest of a folder of shards and the offset index of each shard.

    FOLDER/manifest.json            splits -> shards: name, bytes, SHA-256, samples, index
    FOLDER/train-000000.tar         a plain WebDataset tar
    FOLDER/train-000000.index.npy   one `SAMPLE` row a sample: where its bytes lie in the tar

A sample id runs over the shards of a split in the manifest's order: 0 … N-1. The folder may be remote.
A manifest on a local disk may name a `base`: the remote folder that holds the tars, as after
`python -m shards.index https://… OUT`.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from dvae.data.storage import LocalStore, Location, Store, StoreError, open_store
from dvae.errors import DataError, UserError
from dvae.files import MANIFEST, write_bytes, write_json

FORMAT = "dvae-shards/2"
_INDEX_HEADER = 4096  # bytes, more than numpy's ever is
MAX_MANIFEST = 1 << 30  # bytes; a million shards take a third of it
_CHECKED = 16  # shards of a remote split that are asked for before a run starts
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

    store: Store  # of the indexes
    tars: Store
    name: str
    shards: tuple[Shard, ...]

    @property
    def counts(self) -> np.ndarray:
        """Samples in each shard: (S,) int64."""
        return np.array([shard.samples for shard in self.shards], dtype=np.int64)

    @property
    def folder(self) -> Path:
        """The local folder that holds everything.

        Raises:
            UserError: it's remote.
        """
        if self.tars is not self.store or not isinstance(self.store, LocalStore):
            raise UserError(f"{self.tars.shown} is remote: download it, and give the local folder")
        return self.store.folder

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
        raise DataError(f"{error}: {_remedy(store)}") from None
    if not _is_named(data, shard):
        raise DataError(f"{path} is not the index that {MANIFEST} names: {_remedy(store)}")
    rows = _rows(data, shard.samples)
    if rows is None:
        raise DataError(f"{path} does not hold {shard.samples} rows: {_remedy(store)}")
    ends = np.maximum(rows["offset"] + rows["size"], rows["json_offset"] + rows["json_size"])
    fields = rows["offset"], rows["size"], rows["json_offset"], rows["json_size"]
    if max(values.max(initial=0) for values in (ends, *fields)) > shard.bytes:  # sums may wrap
        raise DataError(f"{path} points past the end of {shard.name}: {_remedy(store)}")
    return rows


def _is_named(data: bytes, shard: Shard) -> bool:
    return hashlib.sha256(data).hexdigest() == shard.index_sha256


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
    folder: Path, splits: Mapping[str, Sequence[Shard]], about: dict[str, Any], base: str = ""
) -> None:
    """Write the manifest of a folder of shards, whose tars lie in `base` if that is given; last."""
    value: dict[str, Any] = {
        "format": FORMAT,
        "splits": {name: [asdict(s) for s in shards] for name, shards in splits.items()},
        "about": about,
    }
    write_json(folder / MANIFEST, value | ({"base": base} if base else {}))


def read_splits(location: Location) -> dict[str, Split]:
    """The splits of a folder of shards, by name.

    Raises:
        UserError: no such folder, no manifest, or one that doesn't have this module's form.
        StoreError: a remote folder that can't be reached, with the reason.
    """
    store = open_store(location)
    path = f"{store.shown}/{MANIFEST}"
    value = _manifest(store)
    try:
        if value["format"] != FORMAT:
            raise UserError(
                f"{path} has the format {str(value['format'])[:60]!r}, not {FORMAT!r}: "
                f"{_remedy(store)}"
            )
        tars = _tars(store, value)
        splits = {
            str(name): Split(store, tars, str(name), tuple(_shard(s, store) for s in shards))
            for name, shards in value["splits"].items()
        }
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise UserError(f"{path} lacks an entry, or has a wrong one: {_remedy(store)}") from None
    names = [shard.name for split in splits.values() for shard in split.shards]
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a shard twice: {_remedy(store)}")
    return splits


def _manifest(store: Store) -> Any:
    """The JSON of a manifest."""
    if isinstance(store, LocalStore) and not store.folder.is_dir():
        raise UserError(
            f"{store.shown} is not a folder: make shards with python -m shards.pack first"
        )
    try:
        return json.loads(store.read_whole(MANIFEST, MAX_MANIFEST))
    except StoreError as error:
        if not isinstance(store, LocalStore):
            raise
        there = (store.folder / MANIFEST).exists()
        reason = error if there else f"{store.shown} has no {MANIFEST}"
        raise UserError(f"{reason}: {_remedy(store)}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{store.shown}/{MANIFEST} is not JSON: {_remedy(store)}") from None


def _tars(store: Store, manifest: dict[str, Any]) -> Store:
    """Where the tars of a manifest lie: beside it, or where a local one names a remote base."""
    base = manifest.get("base")
    if base is None:
        return store
    tars = open_store(str(base))
    if store.is_remote or not tars.is_remote:
        raise UserError(
            f"{store.shown}/{MANIFEST} names the base {tars.shown[:200]!r}: only a local manifest may "
            f"name one, and only a remote one"
        )
    return tars


def find_split(location: Location, name: str) -> Split:
    """The split `name` of a folder of shards, or its only one.

    Raises:
        UserError: there are several, and none has the name; or it holds no sample.
    """
    store = open_store(location)
    splits = read_splits(store)
    if name not in splits and len(splits) != 1:
        raise UserError(f"{store.shown} has no split {name!r}: it has {', '.join(sorted(splits))}")
    split = splits.get(name) or next(iter(splits.values()))
    if not split.counts.sum():
        raise UserError(
            f"{store.shown} holds no sample in its split {split.name!r}: pack more pictures"
        )
    return split


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


def is_shard_name(name: str) -> bool:
    """Whether a manifest may name a shard so: a plain file name that nothing takes for more."""
    return _UNSAFE.match(name) is None


def _shard(value: dict[str, Any], store: Store) -> Shard:
    shard = Shard(
        name=str(value["name"]),
        bytes=int(value["bytes"]),
        sha256=str(value["sha256"]),
        samples=int(value["samples"]),
        index_sha256=str(value["index_sha256"]),
    )
    if not is_shard_name(shard.name):
        raise UserError(
            f"{store.shown}/{MANIFEST} names a shard {shard.name[:60]!r}: not a plain file name that "
            f"ends in .tar: {_remedy(store)}"
        )
    if not 0 <= shard.samples < 2**40:
        raise ValueError(shard.samples)
    return shard


def _remedy(store: Store) -> str:
    return f"run python -m shards.index {store.shown}"
