"""Which shards there are: the manifest of a folder, written last and believed only when whole.

    FOLDER/manifest.json            splits -> shards: name, bytes, SHA-256, samples, index
    FOLDER/train-000000.tar         a plain WebDataset tar
    FOLDER/train-000000.index.npy   where its samples' bytes lie (`dvae.data.index`)

A sample id runs over the shards of a split in the manifest's order: 0 … N-1. The folder may be remote.
A manifest on a local disk may name a `base`: the remote folder that holds the tars, as after
`python -m shards.index https://… OUT`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dvae.data.json_pieces import JsonPieces
from dvae.data.shard_list import Shard, ShardList, is_named_twice
from dvae.data.storage import LocalStore, Location, Store, StoreError, open_store, pieces_of
from dvae.errors import UserError
from dvae.files import MANIFEST, write_json

FORMAT = "dvae-shards/2"
MAX_MANIFEST = 1 << 30  # bytes; a million shards take a third of it
PIECE = 1 << 20  # bytes of it that are parsed at a time
# What some program takes for a command, a URL, an option, a variable or a pattern.
_UNSAFE = re.compile(r"[-.]|.*[/\\:|$`{}*?\x00-\x1f]|(?!.*\.tar$)", re.DOTALL)


@dataclass(frozen=True)
class Split:
    """The shards of one split, in the order that sample ids follow."""

    store: Store  # of the indexes
    tars: Store
    name: str
    shards: ShardList

    @property
    def counts(self) -> np.ndarray:
        """Samples in each shard: (S,) int64."""
        return self.shards.counts

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
        for number, line in enumerate(self.shards.lines()):  # as JSON, but never all of it at once
            digest.update((", " * (number > 0) + line).encode())
        digest.update(b"]")
        return digest.hexdigest()


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
    if isinstance(store, LocalStore) and not store.folder.is_dir():
        raise UserError(
            f"{store.shown} is not a folder: make shards with python -m shards.pack first"
        )
    path = f"{store.shown}/{MANIFEST}"
    try:
        value = _parse(store, JsonPieces(_pieces(store)))
        tars, lists = _tars(store, value.get("base")), value["splits"]
        splits = {name: Split(store, tars, name, shards) for name, shards in lists.items()}
    except StoreError as error:
        if not isinstance(store, LocalStore):
            raise
        there = (store.folder / MANIFEST).exists()
        reason = error if there else f"{store.shown} has no {MANIFEST}"
        raise UserError(f"{reason}: {remedy(store)}") from None
    except UserError:
        raise
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise UserError(f"{path} is not JSON: {remedy(store)}") from None
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise UserError(f"{path} lacks an entry, or has a wrong one: {remedy(store)}") from None
    if is_named_twice(lists.values()):
        raise UserError(f"{path} names a shard twice: {remedy(store)}")
    return splits


def _pieces(store: Store) -> Iterator[bytes]:
    """The bytes of a manifest."""
    if isinstance(store, LocalStore):
        yield from store.pieces(MANIFEST, MAX_MANIFEST, PIECE)
        return
    path, size = f"{store.shown}/{MANIFEST}", store.size(MANIFEST)
    if size > MAX_MANIFEST:
        raise StoreError(f"{path} has {size} bytes, more than {MAX_MANIFEST}")
    requests = 0
    for data in pieces_of(store, MANIFEST, size):
        requests += 1
        yield from (data[start : start + PIECE] for start in range(0, len(data), PIECE))
    if requests > 1 and store.size(MANIFEST) != size:
        raise StoreError(f"{path} was replaced while it was read: run the command again")


def _parse(store: Store, manifest: JsonPieces) -> dict[str, Any]:
    """The values of a manifest; `splits` as lists of shards."""
    value: dict[str, Any] = {}
    for key in manifest.members():
        if key == "splits":
            value[key] = {name: _shards(store, manifest) for name in manifest.members()}
        else:
            value[key] = manifest.value()
        if key == "format" and value[key] != FORMAT:
            raise UserError(
                f"{store.shown}/{MANIFEST} has the format {str(value[key])[:60]!r}, not {FORMAT!r}: "
                f"{remedy(store)}"
            )
    manifest.end()
    if "format" not in value:
        raise KeyError("format")
    return value


def _shards(store: Store, manifest: JsonPieces) -> ShardList:
    """The shards of a split, of which the manifest's next value is the list."""
    shards = ShardList()
    for entries in manifest.chunks():
        shards.extend(entries)
        wrong = [entry["name"] for entry in entries if not is_shard_name(entry["name"])]
        if wrong:
            raise UserError(
                f"{store.shown}/{MANIFEST} names a shard {wrong[0][:60]!r}: not a plain file name that "
                f"ends in .tar: {remedy(store)}"
            )
        if not all(0 <= entry["samples"] < 2**40 for entry in entries):
            raise ValueError("samples")
    return shards


def _tars(store: Store, base: Any) -> Store:
    """Where the tars of a manifest lie: beside it, or where a local one names a remote base."""
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


def is_shard_name(name: str) -> bool:
    """Whether a manifest may name a shard so: a plain file name that nothing takes for more."""
    return _UNSAFE.match(name) is None


def remedy(store: Store) -> str:
    """What to do about a folder whose manifest or indexes are wrong."""
    return f"run python -m shards.index {store.shown}"
