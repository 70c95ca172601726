"""One packing job, and what it makes of one picture: a function that any thread or machine may run."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shards.assembly import Packed
from shards.finished import Finished
from shards.journal import Done
from shards.options import Options
from shards.pictures import PictureError, prepare
from shards.place import Place
from shards.sources import Item, Source, shown
from shards.splits import split_of
from shards.writer import sample_of

Work = tuple[int, Item]  # a picture and its position


@dataclass(frozen=True)
class Job:
    """All that decides what becomes of the pictures."""

    options: Options
    place: Place
    source: Source
    wanted: dict[str, Any]  # the options that determine the bytes
    finished: Finished  # the set that is appended to
    digest: str  # of the two
    done: Done  # what an earlier run finished of this one


def pack_all(job: Job, duplicates: Mapping[int, str], batch: Iterable[Work]) -> list[Packed]:
    """What becomes of some pictures, in their order."""
    return [pack_one(job, duplicates, work) for work in batch]


def pack_one(job: Job, duplicates: Mapping[int, str], work: Work) -> Packed:
    """What becomes of a picture; `duplicates` has the reasons of those to be left out."""
    position, item = work
    options = job.options
    reason = job.done.reasons.get(position) or duplicates.get(position)
    if reason:
        return Packed(position, item, reason=reason)
    try:
        original = job.source.read(item)
        content = hashlib.sha256(original)
        split = split_of(item, content.digest(), options)
        if position < job.done.end(split):
            return Packed(position, item, split)
        made = prepare(original, item.box, options.form)
    except PictureError as error:
        return Packed(position, item, reason=str(error))
    is_untouched = made.data is original
    about: dict[str, Any] = {
        "source": shown(item.name),
        "label": item.label,
        "width": made.width,
        "height": made.height,
        "bytes": len(made.data),
        "sha256": (content if is_untouched else hashlib.sha256(made.data)).hexdigest(),
    }
    if not is_untouched:
        about["source_sha256"] = content.hexdigest()
    if item.box:
        about["box"] = [int(corner) for corner in item.box]
    return Packed(position, item, split, sample_of(made.data, made.extension, about))
