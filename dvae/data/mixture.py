"""Several sources in exact shares: `data.sources = [{path, weight}]`, as closed form as one source.

A block of Q consecutive slots (some whole global batches) holds q_i samples of source i, and
q_i / Q is its share of the weights. A keyed permutation, the same for every block, deals the places
of a block to the sources, so a slot keeps its source and lane, and windows stay with a process.
Source i's samples follow its own order, pass after pass, under a key of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from dvae.data.keyed import MIXTURE, SAMPLES, SOURCE, key, permute
from dvae.data.order import Draw, Order, Span
from dvae.errors import UserError

BLOCK_STEPS = 256  # global batches in a block, at most
BLOCK_PLACES = 2**20  # samples in a block, at most, unless one batch is larger


@dataclass(frozen=True)
class Mixture:
    """The order of several sources that are drawn together.

    Without a window a source's pass is a full permutation of it and holds every sample once. With
    one it is an `Order` of q_i lanes, and what doesn't fill these waits for the next pass.

    Args:
        names: of the sources, for reports.
        counts: (S_i,) samples in each shard, for each source.
        weights: of the sources, more than 0; only their ratios matter.
        seed: of every draw.
        batch_size: B, the global batch.
        window: samples; 0 for a full permutation of each source.

    Raises:
        UserError: a weight is too small for one sample a block, or a source for its lanes.
    """

    names: Sequence[str]
    counts: Sequence[np.ndarray]
    weights: Sequence[float]
    seed: int
    batch_size: int
    window: int = 0

    def __post_init__(self) -> None:
        for name, weight, order in zip(self.names, self.weights, self.orders, strict=True):
            if not order.batch_size:
                raise UserError(
                    f"data.sources: weight={weight:g} of {name} is less than one sample in "
                    f"{self.places}: raise it, or raise train.global_batch_size"
                )
            if self.window and order.samples < order.batch_size:
                raise UserError(
                    f"data.sources: {name} holds {order.samples} pictures, fewer than the "
                    f"{order.batch_size} lanes that its weight gives it: set data.window=0, lower "
                    "train.global_batch_size, or take weights with a smaller common denominator"
                )

    @cached_property
    def quotas(self) -> np.ndarray:
        """(k,) int64: samples of each source in a block."""
        return np.array(quotas(self.weights, self.batch_size), dtype=np.int64)

    @cached_property
    def places(self) -> int:
        """Q, slots in a block."""
        return int(self.quotas.sum())

    @cached_property
    def orders(self) -> tuple[Order, ...]:
        """Each source's own order; its batch is a block."""
        seeds = key(self.seed, SOURCE, np.arange(len(self.counts)))
        return tuple(
            Order(counts, int(seed), int(quota), self.window)
            for counts, seed, quota in zip(self.counts, seeds, self.quotas, strict=True)
        )

    @cached_property
    def samples(self) -> int:
        """N, in all sources."""
        return sum(order.samples for order in self.orders)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which as many samples are drawn as all sources hold; their passes are their own."""
        return self.samples // self.batch_size

    def epochs_begun(self, step: int) -> int:
        """How many passes of any source will have begun when the block of `step` ends."""
        blocks = -(-step // self._block_steps)
        if self.window:
            return max(order.epochs_begun(blocks) for order in self.orders)
        return max(-(-blocks * order.batch_size // order.samples) for order in self.orders)

    def draw(self, step: int, slots: np.ndarray, first_epoch: int = 0) -> Draw:
        """What (n,) slots of the global batch hold at a step that counts from the run's start.

        Sample ids run over the sources one after another.
        """
        block, step_of_block = divmod(step, self._block_steps)
        source, number = self._deal(step_of_block * self.batch_size + slots)
        epochs, ids = np.empty_like(slots), np.empty_like(slots)
        for i in np.unique(source):
            mine = source == i
            drawn = self._draw_from(self.orders[i], block, number[mine], first_epoch)
            epochs[mine], ids[mine] = drawn.epochs, drawn.ids + self._first[i]
        return Draw(epochs, ids)

    def prepare(self, step: int, first_epoch: int = 0) -> None:
        """As `Order.prepare`, of each source's next pass."""
        for order in self.orders:
            order.prepare(step // self._block_steps, first_epoch)

    @property
    def round_steps(self) -> int:
        """Steps in which each slot comes to each of its lanes once: a block."""
        return self._block_steps

    def entered(
        self, step: int, slots: np.ndarray, first_epoch: int = 0, also_open: bool = False
    ) -> list[Span]:
        """What (n,) slots begin to read at a step; as `Order.entered`."""
        block, step_of_block = divmod(step, self._block_steps)
        source, number = self._deal(step_of_block * self.batch_size + slots)
        return [
            Span(span.first + self._first[i], span.samples)
            for i, order in enumerate(self.orders)
            for span in order.entered(block, number[source == i], first_epoch, also_open)
        ]

    def drawn(self, step: int) -> np.ndarray:
        """(k,) int64: samples of each source in the first `step` global batches."""
        blocks, step_of_block = divmod(step, self._block_steps)
        return blocks * self.quotas + self._drawn_in_block[step_of_block]

    def slots_of(self, number: int) -> np.ndarray:
        """(q_i,) the slot of the global batch that holds each of a source's samples of a block."""
        places = np.arange(self.places)
        source, mine = self._deal(places)
        slots = np.empty(self.quotas[number], dtype=np.int64)
        slots[mine[source == number]] = places[source == number] % self.batch_size
        return slots

    @cached_property
    def _block_steps(self) -> int:
        return self.places // self.batch_size

    @cached_property
    def _starts(self) -> np.ndarray:
        """(k,) the place that each source's samples of a block begin at, before they are dealt."""
        return np.cumsum(self.quotas) - self.quotas

    @cached_property
    def _first(self) -> list[int]:
        sizes = [order.samples for order in self.orders]
        return [sum(sizes[:i]) for i in range(len(sizes))]

    @cached_property
    def _drawn_in_block(self) -> np.ndarray:
        """(steps, k): samples of each source before each step of a block."""
        source, _ = self._deal(np.arange(self.places))
        steps = source.reshape(self._block_steps, self.batch_size)
        each = np.stack([(steps == i).sum(1) for i in range(len(self.counts))], axis=1)
        return np.cumsum(each, axis=0) - each

    def _deal(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of a block -> the source of each, and its number among that source's q_i."""
        dealt = permute(places, self.places, key(self.seed, MIXTURE))
        source = np.searchsorted(self._starts, dealt, side="right") - 1
        return source, dealt - self._starts[source]

    def _draw_from(self, order: Order, block: int, numbers: np.ndarray, first_epoch: int) -> Draw:
        if self.window:
            return order.draw(block, numbers, first_epoch)
        passed, places = np.divmod(block * order.batch_size + numbers, order.samples)
        epochs = first_epoch + passed
        return Draw(epochs, permute(places, order.samples, key(order.seed, epochs, SAMPLES)))


def quotas(weights: Sequence[float], batch_size: int) -> list[int]:
    """How many samples each source has in a block, in the least block that holds exact shares.

    Weights are the decimal numbers that the recipe writes: 0.1 is 1/10. Where the least block would
    be longer than `BLOCK_STEPS` batches or `BLOCK_PLACES` samples (as with 0.333333), the longest
    one is taken and the shares are rounded to its places, the largest remainders upwards.
    """
    exact = [Fraction(repr(weight)) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    places = math.lcm(batch_size, *(share.denominator for share in shares))
    longest = batch_size * max(1, min(BLOCK_STEPS, BLOCK_PLACES // batch_size))
    wanted = [share * min(places, longest) for share in shares]
    result = [math.floor(count) for count in wanted]
    rest = min(places, longest) - sum(result)
    by_remainder = sorted(range(len(wanted)), key=lambda i: result[i] - wanted[i])
    for i in by_remainder[:rest]:
        result[i] += 1
    return result
