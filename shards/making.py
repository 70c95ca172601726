"""Makes the shards of a run: pictures in order, prepared on threads, written, journaled, counted."""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TextIO

from PIL import __version__ as pillow_version
from tqdm import tqdm

from dvae import __version__
from dvae.data.manifest import Shard, write_shard_manifest
from dvae.errors import UserError
from dvae.files import sha256, whole_file
from shards import output, summary
from shards.assembly import Assembly, Packed, Writer
from shards.dedupe import DUPLICATES, NEAR, find_duplicates
from shards.finished import new_pictures, old_lines
from shards.job import Job, Work, pack_all
from shards.journal import Journal
from shards.options import Options
from shards.parallel import in_order
from shards.pictures import quiet
from shards.progress import progress
from shards.sources import Item, Listing, shuffled
from shards.splits import splits_of
from shards.writer import ShardWriter

# What a thread takes at a time: by twos or threes, half the time would go into taking turns.
_BATCH = 32  # pictures
_BATCH_BYTES = 1 << 20
_USUAL_BYTES = 1 << 18  # of a picture whose size isn't known


class Made(NamedTuple):
    """What a run made."""

    shards: dict[str, list[Shard]]  # by split
    reasons: Counter[str]  # of what is left out


def make_shards(job: Job, listing: Listing) -> Made:
    """Write the shards that are missing yet, rejected.jsonl and, last, the manifest."""
    options, place, finished = job.options, job.place, job.finished
    with ExitStack() as stack:
        stderr = stack.enter_context(quiet())
        pictures = shuffled(listing.pictures, options.seed)
        lines: list[dict[str, str]] = []
        if finished.shards:
            with _bar("comparing", stderr) as bar:
                pictures = new_pictures(finished, job.source, pictures, options.workers, bar)
            lines = old_lines(place.store)
        duplicates = _duplicates(job, pictures, stderr)
        names = sorted({*splits_of(listing.splits, options), *finished.splits})
        engine = stack.enter_context(closing(_engine(options)))
        writers = {name: stack.enter_context(_writer(engine, job, name)) for name in names}
        rejected = stack.enter_context(whole_file(place.folder / output.REJECTED))
        journal = Journal(place.folder, job.digest, len(job.done.entries), engine.most_full)
        stack.enter_context(journal)
        assembly = Assembly(writers, rejected, journal, job.done, lines)
        start = min(job.done.end(name) for name in names)
        work = islice(enumerate(pictures), start, None)
        results = stack.enter_context(closing(engine.results(job, duplicates, work)))
        with _bar("packing", stderr, len(pictures), start) as bar:
            kept = assembly.take_all(results, pictures, start, bar)
        counts = {name: writer.samples for name, writer in writers.items()}
        _check_counts(counts, assembly.reasons, options)
    counted = _counts(job, len(pictures) + kept, counts, assembly.reasons)
    about = {
        "made_by": f"shards.pack of dvae {__version__} with Pillow {pillow_version}",
        "options": job.wanted,
        "counts": counted,
        "ignored": dict(listing.ignored),
        "rejected_sha256": sha256(place.folder / output.REJECTED),
        "classes": sorted(assembly.labels | set(finished.classes)),
    }
    made = {name: [*_old_shards(job, name), *journal.shards.get(name, ())] for name in names}
    write_shard_manifest(place.folder, made, about)
    return Made(made, assembly.reasons)


def _bar(title: str, stderr: TextIO, total: int | None = None, start: int = 0) -> tqdm:
    return progress(title, stderr, "img", total, start)


def _duplicates(job: Job, pictures: list[Item], stderr: TextIO) -> Mapping[int, str]:
    options = job.options
    if options.dedupe == "none":
        return {}
    form = options.form if options.dedupe == NEAR else None
    with _bar("comparing", stderr) as bar:
        workers = options.workers
        return find_duplicates(form, job.source, pictures, job.finished, workers, bar)


def _old_shards(job: Job, split: str) -> list[Shard]:
    return [*job.finished.shards_of(split), *job.done.shards(split)]


def _batches(work: Iterable[Work]) -> Iterator[list[Work]]:
    batch: list[Work] = []
    size = 0
    for position, item in work:
        batch.append((position, item))
        size += item.size or _USUAL_BYTES
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Threads:
    """Packs on the threads of this process."""

    most_full = 2

    def results(
        self, job: Job, duplicates: Mapping[int, str], work: Iterable[Work]
    ) -> Generator[Packed]:
        """What becomes of the pictures, in order."""
        function = partial(pack_all, job, duplicates)
        with closing(in_order(function, _batches(work), job.options.workers)) as results:
            for made in results:
                yield from made

    def writer(self, job: Job, split: str, number: int, samples: int) -> ShardWriter:
        """The writer of a split."""
        return ShardWriter(job.place, split, job.options.shard_bytes, number, samples)

    def close(self) -> None:
        """Nothing is left behind."""


def _engine(options: Options) -> Any:
    if options.engine == "ray":
        from shards.on_ray import RayEngine

        return RayEngine(options.workers)
    return Threads()


def _writer(engine: Any, job: Job, split: str) -> AbstractContextManager[Writer]:
    shards = _old_shards(job, split)
    return engine.writer(job, split, len(shards), sum(shard.samples for shard in shards))


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
