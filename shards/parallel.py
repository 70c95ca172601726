"""Work on threads, results in order; the decoders and hashes that matter let go of Python's lock."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int, batch: int = 1
) -> Generator[_Result, None, None]:
    """`map` on threads, each taking `batch` items at a time, which costs less than one by one.

    At most 4 results a worker wait, or two batches, so memory stays bounded.
    """
    waiting: deque[Future[list[_Result]]] = deque()
    most = workers * max(2, 4 // batch)
    items = iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        while taken := list(islice(items, batch)):
            waiting.append(pool.submit(_all, function, taken))
            if len(waiting) > most:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _all(function: Callable[[_Item], _Result], items: list[_Item]) -> list[_Result]:
    return [function(item) for item in items]
