"""The packing of one plan on a Ray cluster: `--engine ray` (pip install 'dvae[ray]').

Tasks prepare blocks of pictures; what they made stays in the cluster's memory (or on its disks, where
Ray spills), and only sizes come here. From these the shards' limits follow as in `shards.writer`, and
a task for each shard writes it, so the bytes are those of a packing on threads, and no picture passes
through this process. A task whose worker or machine dies is run again by Ray. Every machine needs
dvae, SOURCE (a shared folder or a URL) and OUT (the same). RAY_ADDRESS names the cluster.
"""

import logging
import os
import sys
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from dvae.data.manifest import Shard
from dvae.errors import UserError
from shards.assembly import Packed
from shards.finished import Finished
from shards.job import Job, Work, pack_all
from shards.pictures import quiet
from shards.place import Place
from shards.writer import Full, Sample, ShardWriter, fits

_BLOCK = 32  # pictures of a task
_RETRIES = 5  # of a task whose worker dies


class Size(NamedTuple):
    """What stands for a sample in the summary of a block."""

    blocks: int  # bytes in a tar


class Reference(NamedTuple):
    """Where a sample is in the cluster."""

    blocks: int  # bytes in a tar
    block: Any  # the ObjectRef of a list of samples
    place: int  # in that list


def prepare_block(
    job: Job, duplicates: Mapping[int, str], block: list[Work]
) -> tuple[list[Packed], list[Sample | None]]:
    """A task: what becomes of some pictures, and their samples."""
    with quiet():
        made = pack_all(job, duplicates, block)
    samples = [packed.sample for packed in made]
    sizes = [sample and Size(sample.blocks) for sample in samples]
    return [p._replace(sample=s) for p, s in zip(made, sizes, strict=True)], samples  # type: ignore[return-value]


def write_shard(
    place: Place, split: str, number: int, samples: int, chosen: list[list[int]], *blocks: Any
) -> Shard:
    """A task: a shard of the chosen samples of some blocks, written to where it belongs."""
    with TemporaryDirectory() as own:
        here = replace(place, folder=Path(own)) if place.url else place
        with ShardWriter(here, split, sys.maxsize, number, samples) as writer:
            for places, block in zip(chosen, blocks, strict=True):
                for position in places:
                    writer.write(block[position])
            full = writer.close()
        assert full
        return full()


class RayEngine:
    """A cluster, by RAY_ADDRESS or a new one on this machine.

    Raises:
        UserError: Ray isn't installed, or there's no such cluster.
    """

    def __init__(self, workers: int) -> None:
        try:
            import ray
        except ImportError:
            raise UserError("--engine ray needs Ray: pip install 'dvae[ray]'") from None
        address = os.environ.get("RAY_ADDRESS", "")
        # Ray takes 127.0.0.1 for this machine's outer address, and listens there, unless it's told.
        host = address.rpartition(":")[0] if address else "127.0.0.1"
        settings: dict[str, Any] = {"_node_ip_address": host} if host.startswith("127.") else {}
        if not address:
            settings |= {"address": "local", "num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
        except ConnectionError as error:
            raise UserError(f"RAY_ADDRESS {address!r}: {error}") from None
        self._ray = ray
        self._prepare = ray.remote(num_returns=2, max_retries=_RETRIES)(prepare_block)
        self._write = ray.remote(max_retries=_RETRIES)(write_shard)
        self.most_full = max(2, int(ray.cluster_resources().get("CPU", 1)))

    def results(
        self, job: Job, duplicates: Mapping[int, str], work: Iterable[Work]
    ) -> Generator[Packed]:
        """What becomes of the pictures, in order; twice as many blocks as cores are under way."""
        # What the tasks need of the job, without locks and open files.
        bare = replace(job, place=_bare(job.place), finished=Finished({}))
        kept = self._ray.put(bare)
        waiting: deque[Any] = deque()  # of pairs, which Ray's types don't know
        work = iter(work)
        while block := list(islice(work, _BLOCK)):
            reasons = {place: duplicates[place] for place, _ in block if place in duplicates}
            waiting.append(self._prepare.remote(kept, reasons, block))
            if len(waiting) > 2 * self.most_full:
                yield from self._taken(*waiting.popleft())
        while waiting:
            yield from self._taken(*waiting.popleft())

    def _get(self, reference: Any) -> Any:
        """A task's result, or the error that it ended with."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def _taken(self, summary: Any, samples: Any) -> Generator[Packed]:
        for place, packed in enumerate(self._get(summary)):
            size = packed.sample
            yield packed._replace(sample=size and Reference(size.blocks, samples, place))

    def writer(
        self, job: Job, split: str, number: int, samples: int
    ) -> AbstractContextManager["RayWriter"]:
        """The writer of a split."""
        write = self._write.remote

        def written(number: int, samples: int, held: list[Reference]) -> Full:
            groups = [list(group) for _, group in groupby(held, attrgetter("block"))]
            chosen = [[reference.place for reference in group] for group in groups]
            blocks = [group[0].block for group in groups]
            shard = write(_bare(job.place), split, number, samples, chosen, *blocks)
            return lambda: self._get(shard)

        return nullcontext(RayWriter(written, job.options.shard_bytes, number, samples))

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()


class RayWriter:
    """Collects the samples of a shard by reference, and has a task write it."""

    def __init__(self, written: Any, shard_bytes: int, number: int, samples: int) -> None:
        self.samples = samples
        self._written = written
        self._shard_bytes = shard_bytes
        self._number = number
        self._held: list[Reference] = []
        self._size = 0  # bytes

    def write(self, sample: Reference) -> Full | None:
        """See `shards.assembly.Writer`."""
        is_full = self._held and not fits(self._size, sample.blocks, self._shard_bytes)
        full = self.close() if is_full else None
        self._held.append(sample)
        self._size += sample.blocks
        self.samples += 1
        return full

    def close(self) -> Full | None:
        """See `shards.assembly.Writer`."""
        if not self._held:
            return None
        full: Full = self._written(self._number, self.samples - len(self._held), self._held)
        self._number += 1
        self._held, self._size = [], 0
        return full


def _bare(place: Place) -> Place:
    return Place(place.folder.resolve(), place.url)
