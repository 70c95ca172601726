"""Makes the shards of a run: pictures in order, prepared on threads, written, journaled, counted."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TextIO

from PIL import __version__ as pillow_version
from tqdm import tqdm

from dvae import __version__
from dvae.data.manifest import Shard, write_shard_manifest
from dvae.errors import UserError
from dvae.files import whole_file
from shards import output, summary
from shards.assembly import Assembly, Packed
from shards.dedupe import DUPLICATES, NEAR, find_duplicates
from shards.finished import Finished, lines_kept, new_pictures
from shards.journal import Done, Journal
from shards.options import Options
from shards.parallel import in_order
from shards.pictures import PictureError, prepare, quiet
from shards.sources import Item, Listing, Source, shown, shuffled
from shards.splits import split_of, splits_of
from shards.writer import Sample, ShardWriter


@dataclass(frozen=True)
class Job:
    """All that decides what becomes of the pictures."""

    options: Options
    source: Source
    wanted: dict[str, Any]  # the options that determine the bytes
    finished: Finished  # the set that is appended to
    digest: str  # of the two
    done: Done  # what an earlier run finished of this one


class Made(NamedTuple):
    """What a run made."""

    shards: dict[str, list[Shard]]  # by split
    reasons: Counter[str]  # of what is left out


def make_shards(job: Job, listing: Listing) -> Made:
    """Write the shards that are missing yet, rejected.jsonl and, last, the manifest."""
    options, out, finished = job.options, job.options.out, job.finished
    with ExitStack() as stack:
        stderr = stack.enter_context(quiet())
        pictures = shuffled(listing.pictures, options.seed)
        lines: list[dict[str, str]] = []
        if finished.shards:
            with _bar("comparing", stderr) as bar:
                pictures = new_pictures(finished, job.source, pictures, options.workers, bar)
            lines = lines_kept(out, pictures)
        duplicates = _duplicates(job, pictures, stderr)
        names = sorted({*splits_of(listing.splits, options), *finished.splits})
        writers = {name: stack.enter_context(_writer(job, name)) for name in names}
        rejected = stack.enter_context(whole_file(out / output.REJECTED))
        journal = Journal(out, job.digest, len(job.done.entries))
        assembly = Assembly(writers, rejected, journal, job.done)
        assembly.write_lines(lines)
        start = min(job.done.end(name) for name in names)
        work = islice(enumerate(pictures), start, None)
        results = in_order(partial(_pack_one, job, duplicates), work, options.workers)
        stack.enter_context(closing(results))
        with _bar("packing", stderr, len(pictures), start) as bar:
            assembly.take_all(results, pictures, start, bar)
        counts = {name: writer.samples for name, writer in writers.items()}
        _check_counts(counts, assembly.reasons, options)
    counted = _counts(job, len(pictures) + len(lines), counts, assembly.reasons)
    about = {
        "made_by": f"shards.pack of dvae {__version__} with Pillow {pillow_version}",
        "options": job.wanted,
        "counts": counted,
        "classes": sorted(assembly.labels | set(finished.classes)),
    }
    made = {name: writer.shards for name, writer in writers.items()}
    write_shard_manifest(out, made, about)
    return Made(made, assembly.reasons)


def _bar(title: str, stderr: TextIO, total: int | None = None, start: int = 0) -> tqdm:
    return tqdm(desc=title, total=total, initial=start, file=stderr, unit="img", disable=None)


def _duplicates(job: Job, pictures: list[Item], stderr: TextIO) -> dict[int, str]:
    options = job.options
    if options.dedupe == "none":
        return {}
    form = options.form if options.dedupe == NEAR else None
    with _bar("comparing", stderr) as bar:
        workers = options.workers
        return find_duplicates(form, job.source, pictures, job.finished, workers, bar)


def _writer(job: Job, split: str) -> ShardWriter:
    shards = [*job.finished.shards_of(split), *job.done.shards(split)]
    return ShardWriter(job.options.out, split, job.options.shard_bytes, shards)


def _pack_one(job: Job, duplicates: Mapping[int, str], work: tuple[int, Item]) -> Packed:
    position, item = work
    options = job.options
    reason = duplicates.get(position) or job.done.reasons.get(position)
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
    about = {
        "source": shown(item.name),
        "label": item.label,
        "width": made.width,
        "height": made.height,
        "bytes": len(made.data),
        "sha256": hashlib.sha256(made.data).hexdigest(),
    }
    if made.data is not original:
        about["source_sha256"] = content.hexdigest()
    return Packed(position, item, split, Sample(made.data, made.extension, about))


def _counts(
    job: Job, looked_at: int, packed: Mapping[str, int], reasons: Counter[str]
) -> dict[str, int]:
    """What stands in the manifest; every picture that was found is in exactly one of the others."""
    counts = {
        "found": looked_at + sum(shard.samples for shard in job.finished.shards),
        "packed": sum(packed.values()),
        "rejected": sum(count for kind, count in reasons.items() if kind not in DUPLICATES),
        "duplicates": sum(reasons[kind] for kind in DUPLICATES),
    }
    assert counts["found"] == counts["packed"] + counts["rejected"] + counts["duplicates"]
    return counts


def _check_counts(counts: dict[str, int], reasons: Counter[str], options: Options) -> None:
    if not any(counts.values()):
        raise UserError(
            f"none of the {reasons.total()} pictures in {str(options.source)!r} can be packed "
            f"({summary.most_common(reasons)}): give intact pictures"
        )
    for name, count in counts.items():
        if not count and options.val is not None:
            raise UserError(
                f"--val {options.val} leaves the split {name} empty with {sum(counts.values())} "
                f"pictures: give more pictures, or a share nearer to 0.5"
            )
        if not count:
            raise UserError(
                f"the split {name} is empty, all its pictures are rejected "
                f"({summary.most_common(reasons)}): mend them"
            )
