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

    def entered(number: int, _: Plan) -> list[Span]:
        is_first = number < source.round_steps  # the windows that are open at the start, too
        return source.entered(start + number, slots, first_epoch, also_open=is_first)

    return _announced(plan, reader, entered, TRAINING_STEPS)


def evaluation_ahead(reader: Reader, plan: Iterator[Plan]) -> Iterator[Plan]:
    """The same plan of ascending ids; the reader fetches its remote samples ahead."""
    if not reader.is_remote:
        return plan
    return _announced(
        plan, reader, lambda _, step: reader.runs(step.ids[step.weights > 0]), EVALUATION_STEPS
    )


def _announced(
    plan: Iterator[Plan], reader: Reader, spans: Callable[[int, Plan], list[Span]], steps: int
) -> Iterator[Plan]:
    """The same plan, a number of steps behind what is asked of the reader."""
    coming: deque[Plan] = deque()
    try:
        for number, step in enumerate(plan):
            reader.windows.ask(reader.remote(spans(number, step)))
            coming.append(step)
            if len(coming) > steps:
                yield coming.popleft()
        yield from coming
    except GeneratorExit:  # not where the plan ends: its last steps are still being decoded
        reader.windows.drop()
        raise
