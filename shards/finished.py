"""A finished set that pictures are appended to: which ones it has, and what it left out.

A picture is one of the set if the set has the same name with the same bytes and the same box.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from dvae.data.index import read_index
from dvae.data.manifest import MAX_MANIFEST, Shard, Split, read_splits
from dvae.data.storage import Store, StoreError
from dvae.errors import UserError
from dvae.files import MANIFEST
from shards.output import REJECTED
from shards.parallel import in_order
from shards.pictures import PictureError
from shards.sources import Item, Source, shown


@dataclass(frozen=True)
class Finished:
    """What a finished set holds; an empty one is what a fresh run starts from."""

    splits: dict[str, Split]
    classes: tuple[str, ...] = ()
    sha256: str = ""  # of its manifest
    left_out: int | None = None  # lines of its rejected.jsonl

    @property
    def shards(self) -> list[Shard]:
        """All its shards."""
        return [shard for split in self.splits.values() for shard in split.shards]

    def shards_of(self, split: str) -> Sequence[Shard]:
        """Those of one split."""
        return self.splits[split].shards if split in self.splits else ()


def read_finished(store: Store, about: dict[str, Any]) -> Finished:
    """The finished set in a folder; `about` is its manifest's."""
    classes = tuple(str(name) for name in about.get("classes", ()))
    digest = hashlib.sha256(store.read_whole(MANIFEST, MAX_MANIFEST)).hexdigest()
    counts = about.get("counts", {})
    left_out = sum(int(counts.get(kind, 0)) for kind in ("rejected", "duplicates"))
    return Finished(read_splits(store), classes, digest, left_out if counts else None)


class Kept(NamedTuple):
    """A picture of a finished set, its bytes unread."""

    name: str  # the source's
    content: bytes  # see `content_of`
    read: Callable[[], bytes]


def pictures_in(finished: Finished, workers: int) -> Iterator[Kept]:
    """Its pictures in order; reads their JSON only.

    Raises:
        UserError: a sample without the packer's JSON.
    """
    for split in finished.splits.values():
        for shard in split.shards:
            rows = read_index(split.store, shard)
            yield from in_order(partial(_kept, split.tars, shard), rows, workers)


def _kept(tars: Store, shard: Shard, row: np.void) -> Kept:
    try:
        about = json.loads(_member(tars, shard, row, "json_"))
        sha256 = bytes.fromhex(about.get("source_sha256", about["sha256"]))
        content = content_of(sha256, about.get("box"))
        name = about["source"]
        if isinstance(name, str):
            return Kept(name, content, partial(_member, tars, shard, row, ""))
    except (StoreError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f"{shard.name} holds a sample without the packer's JSON: run shards.verify")


def _member(tars: Store, shard: Shard, row: np.void, kind: str) -> bytes:
    return tars.read(shard.name, int(row[f"{kind}offset"]), int(row[f"{kind}size"]))


def content_of(sha256: bytes, box: Sequence[int] | None) -> bytes:
    """What tells a source's picture from others: the SHA-256 of its bytes, and of its box if any."""
    return hashlib.sha256(sha256 + repr(tuple(box)).encode()).digest() if box else sha256


def new_pictures(
    finished: Finished, source: Source, pictures: list[Item], workers: int, bar: tqdm
) -> list[Item]:
    """The pictures that a finished set doesn't have."""
    known = {_key(kept.name, kept.content) for kept in pictures_in(finished, workers)}
    bar.reset(len(pictures))
    new = []
    results = in_order(partial(_is_known, known, source), pictures, workers)
    for item, is_known in zip(pictures, results, strict=True):
        bar.update()
        if not is_known:
            new.append(item)
    return new


def _is_known(known: set[bytes], source: Source, item: Item) -> bool:
    try:
        sha256 = hashlib.sha256(source.read(item)).digest()
    except PictureError:
        return False  # packing it will say so
    return _key(shown(item.name), content_of(sha256, item.box)) in known


def _key(name: str, content: bytes) -> bytes:
    """16 bytes for a name and its content, because there may be millions."""
    return hashlib.sha256(content + name.encode()).digest()[:16]


def lines_kept(store: Store, finished: Finished, again: Iterable[Item]) -> list[dict[str, str]]:
    """The lines of a set's rejected.jsonl but those of pictures that are tried again.

    A run that was killed before the manifest may have written its own lines behind them.
    """
    names = {shown(item.name) for item in again}
    try:
        lines = [json.loads(line) for line in store.read_whole(REJECTED, MAX_MANIFEST).splitlines()]
        lines = lines[: finished.left_out]
        return [line for line in lines if line["source"] not in names]
    except (StoreError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{f'{store.shown}/{REJECTED}'!r} is missing or damaged: restore it, or pack again with "
            f"--overwrite"
        ) from None
