"""Plans: which samples a process reads at each step, before anything is opened.

A plan is closed form: it begins at any step at the cost of beginning at 0, and any number of
processes that divides the global batch shares out the same one (design contract 1).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dvae.data.order import Draw, Span, share


class Source(Protocol):
    """Where samples come from: an `Order` of one split, or a `Mixture` of several."""

    @property
    def batch_size(self) -> int:
        """B, the global batch."""

    @property
    def samples(self) -> int:
        """N, in all."""

    @property
    def steps_per_epoch(self) -> int:
        """Global batches after which the epoch that reports name is over."""

    def epochs_begun(self, step: int) -> int:
        """How many passes of any source have begun when `step` global batches were drawn."""

    def draw(self, step: int, slots: np.ndarray, first_epoch: int = 0) -> Draw:
        """What (n,) slots of the global batch hold at a step that counts from the run's start."""

    def prepare(self, step: int, first_epoch: int = 0) -> None:
        """Begin to work out what steps soon after this one need, where that takes long."""

    @property
    def round_steps(self) -> int:
        """Steps in which each slot comes to each of its lanes once."""

    def entered(
        self, step: int, slots: np.ndarray, first_epoch: int = 0, also_open: bool = False
    ) -> list[Span]:
        """What (n,) slots begin to read at a step: windows, cut where shards end."""


@dataclass(frozen=True)
class Plan:
    """The samples of one step of this process, before they are decoded."""

    epoch: int  # of the batch, for reports
    step: int  # of that epoch
    epochs: np.ndarray  # (n,) int64, one a sample: crops, flips and noise are keyed by it
    ids: np.ndarray  # (n,) int64
    weights: np.ndarray  # (n,) float32: 0 for padding


def training_plan(
    source: Source, start: int, rank: int, world_size: int, first_epoch: int = 0
) -> Iterator[Plan]:
    """This process's samples from the step `start` on, without end.

    Args:
        source: of the samples.
        start: steps already taken since `first_epoch` began.
        rank: of this process.
        world_size: how many processes share the batches out.
        first_epoch: the number of the first epoch; a run that goes on with changed data begins a
            new epoch, and counts its steps from there.
    """
    mine = share(source.batch_size, rank, world_size)
    slots = np.arange(mine.start, mine.stop, dtype=np.int64)
    weights = np.ones(len(slots), dtype=np.float32)
    step = start
    while True:
        source.prepare(step, first_epoch)
        epochs, ids = source.draw(step, slots, first_epoch)
        epoch, step_of_epoch = divmod(step, source.steps_per_epoch)
        yield Plan(first_epoch + epoch, step_of_epoch, epochs, ids, weights)
        step += 1


def evaluation_plan(samples: int, batch_size: int, rank: int, world_size: int) -> Iterator[Plan]:
    """Every sample once, in order, over all processes; the last batch is padded with weight 0."""
    mine = share(batch_size, rank, world_size)
    for step in range(-(-samples // batch_size)):
        ids = np.arange(step * batch_size, (step + 1) * batch_size)[mine]
        weights = (ids < samples).astype(np.float32)
        yield Plan(0, step, np.zeros_like(ids), np.minimum(ids, samples - 1), weights)
