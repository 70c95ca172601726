"""Which sample when: `order(seed, epoch, step) -> global batch of sample ids`, and keyed draws.

Both are pure functions: they know nothing of processes, threads, micro-batches, or of what was read
before (design contract 1). Integers are mixed by splitmix64 (Steele et al. 2014); permutations are
Feistel networks with cycle walking (Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

ROUNDS = 8
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
CHUNK = 2**14  # indices permuted at a time: what fits a processor's cache

# The purpose of a draw: equal seeds, epochs and ids give unrelated numbers for each of them.
SHARDS, ROTATION, SAMPLES, WINDOWS, CROP, FLIP, NOISE, MIXTURE, SOURCE, AUGMENT = range(10)


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: a bijection of uint64 whose every output bit hangs on every input bit."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def key(*parts: int | np.ndarray) -> np.ndarray:
    """A uint64 made of several integers in their order: (1,), or (n,) where a part is (n,)."""
    result = np.zeros(1, dtype=np.uint64)
    for part in parts:
        result = mix(result + GOLDEN + mix(np.atleast_1d(part).astype(np.uint64)))
    return result


def uniform(ids: np.ndarray, count: int, *parts: int | np.ndarray) -> np.ndarray:
    """Keyed draws from [0, 1): (n,) sample ids -> (n, count), the same whoever asks."""
    keys = key(*parts, ids)[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    return (mix(keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """A keyed permutation of 0 … size-1, evaluated at `index`, without building it.

    Args:
        index: (n,) integers in [0, size).
        size: of the domain.
        keys: (1,) or (n,) uint64; each key is another permutation.

    Returns:
        (n,) int64 in [0, size).
    """
    result = np.asarray(index).astype(np.uint64)
    half = max(2, ((size - 1).bit_length() + 1) // 2)
    keys = np.broadcast_to(keys, result.shape)
    for start in range(0, len(result), CHUNK):
        here = slice(start, start + CHUNK)
        result[here] = _walk(result[here], size, half, keys[here])
    return result.astype(np.int64)


def _walk(x: np.ndarray, size: int, half: int, keys: np.ndarray) -> np.ndarray:
    """One step of the permutation; what lands outside of the domain goes on until it comes back."""
    x = _feistel(x, half, keys)
    outside = np.flatnonzero(x >= size)
    while outside.size:
        moved = _feistel(x[outside], half, keys[outside])
        x[outside] = moved
        outside = outside[moved >= size]
    return x


def _feistel(x: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    shift, mask = np.uint64(half), np.uint64(2**half - 1)
    left, right = x >> shift, x & mask
    for _ in range(ROUNDS):
        keys = keys + GOLDEN
        left, right = right, left ^ (mix(right + keys) & mask)
    return (left << shift) | right


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

    def line(self, epoch: int) -> Line:
        """The permuted shards of an epoch; those of two epochs are kept, as at an edge both are read."""
        line = self._lines.get(epoch)
        if line is None:
            count = len(self.counts)
            shards = permute(np.arange(count), count, key(self.seed, epoch, SHARDS))
            first = np.cumsum(self.counts) - self.counts
            rotation = int(key(self.seed, epoch, ROTATION)[0] % np.uint64(self.samples))
            line = Line(np.cumsum(self.counts[shards]), first[shards], shards, rotation)
            for old in list(self._lines)[:-1]:
                self._lines.pop(old, None)
            self._lines[epoch] = line
        return line

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
