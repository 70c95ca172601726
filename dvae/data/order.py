"""Which sample when: `order(seed, epoch, step) -> global batch of sample ids`.

A pure function: it knows nothing of processes, threads, micro-batches, or of what was read before
(design contract 1).
"""

from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock, Thread
from typing import NamedTuple

import numpy as np

from dvae.data.keyed import ROTATION, SAMPLES, SHARDS, WINDOWS, key, permute

AHEAD = 1024  # steps before an epoch's first one that its line is begun to be worked out
MANY = 10_000  # shards whose line takes long enough for that: a millisecond


class Draw(NamedTuple):
    """What some slots of a global batch hold."""

    epochs: np.ndarray  # (n,) int64: the pass of its source that each sample belongs to
    ids: np.ndarray  # (n,) int64


class Span(NamedTuple):
    """Consecutive samples of one shard."""

    first: int  # sample id
    samples: int


class Line(NamedTuple):
    """The permuted shards of an epoch, laid end to end."""

    ends: np.ndarray  # (S,) where each ends on the line
    first: np.ndarray  # (S,) the id of its first sample
    shards: np.ndarray  # (S,) its number in the manifest
    rotation: int  # the place of the line that the first lane begins at


@dataclass(frozen=True)
class Order:
    """The order of a training split.

    `window = 0` permutes the whole data set: the best mixing, for shards on a local disk. Otherwise
    the shards are permuted, laid end to end and cut into B equal lanes, one for each slot of the
    global batch; inside a lane, windows of so many consecutive samples are permuted, so that each
    byte is fetched once in the whole cluster per epoch.

    Args:
        counts: (S,) samples in each shard, in the manifest's order.
        seed: of every draw.
        batch_size: B, the global batch.
        window: samples; 0 for a full permutation.
    """

    counts: np.ndarray
    seed: int
    batch_size: int
    window: int = 0
    _lines: dict[int, Line] = field(default_factory=dict, repr=False)
    _begun: set[int] = field(default_factory=set, repr=False)  # lines that threads work out
    _lock: Lock = field(default_factory=Lock, repr=False)

    @cached_property
    def samples(self) -> int:
        """N, in all shards."""
        return int(self.counts.sum())

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch; what doesn't fill the last one waits for the next epoch."""
        return self.samples // self.batch_size

    def epochs_begun(self, step: int) -> int:
        """How many epochs have begun when `step` global batches were drawn."""
        return -(-step // self.steps_per_epoch)

    def draw(self, step: int, slots: np.ndarray, first_epoch: int = 0) -> Draw:
        """What (n,) slots of the global batch hold at a step that counts from the run's start."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        ids = self.ids(first_epoch + epoch, step_of_epoch, slots)
        return Draw(np.full_like(ids, first_epoch + epoch), ids)

    def ids(self, epoch: int, step: int, slots: np.ndarray | None = None) -> np.ndarray:
        """The (B,) sample ids of a step of an epoch, slot by slot; no id twice in an epoch.

        With `slots`, (n,), only theirs: what a process pays for is its own share.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step {step} of an epoch of {self.steps_per_epoch}")
        if slots is None:
            slots = np.arange(self.batch_size, dtype=np.int64)
        if not self.window:
            places = step * self.batch_size + slots
            return permute(places, self.samples, key(self.seed, epoch, SAMPLES))
        window = step // self.window
        size = min(self.window, self.steps_per_epoch - window * self.window)
        keys = key(self.seed, epoch, WINDOWS, window, slots)
        inside = permute(np.full_like(slots, step % self.window), size, keys)
        return self._at(epoch, slots * self.steps_per_epoch + window * self.window + inside)

    @property
    def round_steps(self) -> int:
        """Steps in which each slot comes to each of its lanes once."""
        return 1

    def entered(
        self, step: int, slots: np.ndarray, first_epoch: int = 0, also_open: bool = False
    ) -> list[Span]:
        """What (n,) slots begin to read at a step: their windows, cut where shards end.

        Args:
            step: counts from the run's start, as in `draw`.
            slots: of the global batch.
            first_epoch: as in `draw`.
            also_open: give the windows that the slots are inside of, too.

        Returns:
            Spans of sample ids, slot by slot; none without a window.
        """
        if not self.window:
            return []
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        window, inside = divmod(step_of_epoch, self.window)
        if inside and not also_open:
            return []
        size = min(self.window, self.steps_per_epoch - window * self.window)
        starts = slots * self.steps_per_epoch + window * self.window
        line = self.line(first_epoch + epoch)
        return [span for start in starts.tolist() for span in self._cut(line, start, size)]

    def _cut(self, line: Line, start: int, size: int) -> list[Span]:
        """Places start … start + size - 1 of the line as spans, one a shard."""
        spans = []
        while size:
            place = (start + line.rotation) % self.samples
            shard = int(np.searchsorted(line.ends, place, side="right"))
            left = int(line.ends[shard]) - place  # in this shard
            count = min(size, left)
            end = int(line.first[shard] + self.counts[line.shards[shard]])  # the id behind its last
            spans.append(Span(end - left, count))
            start, size = start + count, size - count
        return spans

    def prepare(self, step: int, first_epoch: int = 0) -> None:
        """Work out on a thread what the first step of the next epoch would wait for, if that is near."""
        if not self.window or len(self.counts) < MANY:
            return
        near = step + min(AHEAD, self.steps_per_epoch)
        epoch = first_epoch + near // self.steps_per_epoch
        if epoch not in self._begun:
            self._begun.add(epoch)
            Thread(target=self.line, args=(epoch,), name="order", daemon=True).start()

    def line(self, epoch: int) -> Line:
        """The permuted shards of an epoch; one beside it is kept, as at an edge both are read."""
        line = self._lines.get(epoch)
        if line is None:
            with self._lock:  # one thread works it out, others wait
                line = self._lines.get(epoch) or self._make_line(epoch)
                beside = epoch + 1 if epoch + 1 in self._lines else epoch - 1
                for other in set(self._lines) - {beside}:
                    self._lines.pop(other)
                self._lines[epoch] = line
        return line

    def _make_line(self, epoch: int) -> Line:
        count = len(self.counts)
        shards = permute(np.arange(count), count, key(self.seed, epoch, SHARDS))
        first = np.cumsum(self.counts) - self.counts
        rotation = int(key(self.seed, epoch, ROTATION)[0] % np.uint64(self.samples))
        return Line(np.cumsum(self.counts[shards]), first[shards], shards, rotation)

    def _at(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """Sample ids at places of the line, which begins at a drawn place."""
        ends, first, _, rotation = self.line(epoch)
        places = (places + rotation) % self.samples
        shard = np.searchsorted(ends, places, side="right")
        return first[shard] + places - (ends[shard - 1] * (shard > 0))


def share(batch_size: int, rank: int, world_size: int) -> slice:
    """The slots of the global batch that a process owns; `world_size` divides `batch_size`."""
    each = batch_size // world_size
    return slice(rank * each, (rank + 1) * each)
