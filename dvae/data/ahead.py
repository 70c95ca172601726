"""Remote shards are asked for before they are wanted: plans whose steps announce what they will read.

Training announces the windows that a process's slots enter, evaluation its own runs of samples. Local
shards need none of this: their plans pass through.
"""

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from dvae.data.order import Span, share
from dvae.data.plans import Plan, Source, training_plan
from dvae.data.reader import Reader

TRAINING_STEPS = 64  # that are looked ahead, at most; the reader's limit of bytes comes first
EVALUATION_STEPS = 8


def training_ahead(
    reader: Reader, source: Source, start: int, rank: int, world_size: int, first_epoch: int = 0
) -> Iterator[Plan]:
    """As `training_plan`; the reader fetches the remote windows of its steps ahead."""
    plan = training_plan(source, start, rank, world_size, first_epoch)
    if not reader.is_remote:
        return plan
    mine = share(source.batch_size, rank, world_size)
    slots = np.arange(mine.start, mine.stop, dtype=np.int64)

    def ask(number: int, _: Plan) -> None:
        spans, drawn = entered(source, start, start + number, slots, first_epoch)
        reader.windows.ask(reader.remote(spans), drawn)

    return _announced(plan, reader, ask, TRAINING_STEPS)


def entered(
    source: Source, start: int, step: int, slots: np.ndarray, first_epoch: int = 0
) -> tuple[list[Span], set[int]]:
    """What (n,) slots begin to read at a step of a plan that begins at `start`.

    Returns:
        Their windows, those that are open at the start too, and of these the samples that were drawn
        before it: nobody will take them.
    """
    is_first = step < start + source.round_steps
    spans = source.entered(step, slots, first_epoch, also_open=is_first)
    return spans, _drawn(source, step, slots, first_epoch, spans) if is_first else set()


def _drawn(
    source: Source, step: int, slots: np.ndarray, first_epoch: int, spans: list[Span]
) -> set[int]:
    """The samples of open windows that their slots drew before a step, in earlier rounds."""
    inside = {s for span in spans for s in range(span.first, span.first + span.samples)}
    epochs = source.draw(step, slots, first_epoch).epochs
    drawn: set[int] = set()
    for earlier in range(step - source.round_steps, -1, -source.round_steps):
        before = source.draw(earlier, slots, first_epoch)
        found = inside.intersection(before.ids[before.epochs == epochs].tolist())
        if not found:  # all windows began after it
            break
        drawn |= found
    return drawn


def evaluation_ahead(reader: Reader, plan: Iterator[Plan]) -> Iterator[Plan]:
    """The same plan of ascending ids; the reader fetches its remote samples ahead."""
    if not reader.is_remote:
        return plan

    def ask(_: int, step: Plan) -> None:
        reader.windows.ask(reader.remote(reader.runs(step.ids[step.weights > 0])))

    return _announced(plan, reader, ask, EVALUATION_STEPS)


def _announced(
    plan: Iterator[Plan], reader: Reader, ask: Callable[[int, Plan], None], steps: int
) -> Iterator[Plan]:
    """The same plan, a number of steps behind what is asked of the reader."""
    coming: deque[Plan] = deque()
    try:
        for number, step in enumerate(plan):
            ask(number, step)
            coming.append(step)
            if len(coming) > steps:
                yield coming.popleft()
        yield from coming
    except GeneratorExit:  # not where the plan ends: its last steps are still being decoded
        reader.windows.drop()
        raise
