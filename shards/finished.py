"""A finished set that pictures are appended to: which ones it has, and what it left out.

A picture is one of the set if the set has the same name with the same bytes and the same box.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

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
    return Finished(read_splits(store), classes, digest)


def samples_in(
    finished: Finished, workers: int
) -> Iterator[tuple[dict[str, Any], Callable[[], bytes]]]:
    """The JSON of each sample, read on threads, and what reads the picture's bytes.

    Raises:
        UserError: a sample without the packer's JSON.
    """
    rows = (
        (split.tars, row, shard)
        for split in finished.splits.values()
        for shard in split.shards
        for row in read_index(split.store, shard)
    )
    return in_order(_sample, rows, workers)


def _sample(place: tuple[Store, np.void, Shard]) -> tuple[dict[str, Any], Callable[[], bytes]]:
    return _about(*place), partial(_member, *place, "")


def _about(tars: Store, row: np.void, shard: Shard) -> dict[str, Any]:
    try:
        about = json.loads(_member(tars, row, shard, "json_"))
        if isinstance(about["source"], str) and content_of(about):
            return dict(about)
    except (StoreError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise UserError(f"{shard.name} holds a sample without the packer's JSON: run shards.verify")


def _member(tars: Store, row: np.void, shard: Shard, kind: str) -> bytes:
    return tars.read(shard.name, int(row[f"{kind}offset"]), int(row[f"{kind}size"]))


def content_of(about: dict[str, Any]) -> bytes:
    """What `with_box` gave for the picture that a sample was made from."""
    content = bytes.fromhex(about.get("source_sha256", about["sha256"]))
    return with_box(content, about.get("box"))


def with_box(content: bytes, box: Sequence[int] | None) -> bytes:
    """The SHA-256 of a picture's bytes, and of its box if it has one: two boxes are two pictures."""
    if not box:
        return content
    return hashlib.sha256(content + repr([int(corner) for corner in box]).encode()).digest()


def new_pictures(
    finished: Finished, source: Source, pictures: list[Item], workers: int, bar: tqdm
) -> list[Item]:
    """The pictures that a finished set doesn't have."""
    known = {_key(about["source"], content_of(about)) for about, _ in samples_in(finished, workers)}
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
        content = hashlib.sha256(source.read(item)).digest()
    except PictureError:
        return False  # packing it will say so
    return _key(shown(item.name), with_box(content, item.box)) in known


def _key(name: str, content: bytes) -> bytes:
    """16 bytes for a name and its content, because there may be millions."""
    return hashlib.sha256(content + name.encode()).digest()[:16]


def old_lines(store: Store) -> list[dict[str, str]]:
    """The lines of a set's rejected.jsonl.

    Raises:
        UserError: it's missing or damaged.
    """
    try:
        lines = [json.loads(line) for line in store.read_whole(REJECTED, MAX_MANIFEST).splitlines()]
        return [{"source": line["source"], "reason": str(line["reason"])} for line in lines]
    except (StoreError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{f'{store.shown}/{REJECTED}'!r} is missing or damaged: restore it, or pack again with "
            f"--overwrite"
        ) from None
