"""Runs of samples fetched by one request each, ahead of their use: what makes remote shards fast.

Threads fetch the runs in the order in which they were asked for. What is fetched and not yet taken
stays below a limit of bytes, so memory is bounded; a run that is wanted before its turn is fetched by
the thread that wants it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from threading import Condition, Event, Thread
from typing import Generic, TypeVar

from dvae.data.order import Span
from dvae.errors import DataError

MAX_BYTES = 128 << 20  # fetched and not yet taken; a run that is wanted at once may exceed it
THREADS = 8  # requests under way

_Item = TypeVar("_Item")
Fetch = Callable[[Span], list[_Item]]


class _Run(Generic[_Item]):
    """A span and what became of it."""

    def __init__(self, span: Span, size: float) -> None:
        self.span = span
        self.each = size / span.samples  # bytes, about
        self.items: list[_Item] = []
        self.failure = "its reading was given up"
        self.done = Event()

    def fetch(self, fetch: Fetch[_Item]) -> None:
        try:
            self.items = fetch(self.span)
        except (DataError, OSError) as error:
            self.failure = str(error)
        finally:
            self.done.set()

    def item(self, sample: int) -> _Item:
        """Of one sample, once it's there."""
        self.done.wait()
        if not self.items:
            raise DataError(self.failure)
        return self.items[sample - self.span.first]


class Windows(Generic[_Item]):
    """Runs of samples on their way; safe to use from several threads.

    Args:
        fetch: gives an item for each sample of a span, or raises `DataError`.
        size: of a span, in bytes, about.
        limit: bytes fetched and not yet taken.
    """

    def __init__(
        self, fetch: Fetch[_Item], size: Callable[[Span], float], limit: float = MAX_BYTES
    ) -> None:
        self._fetch = fetch
        self._size = size
        self._limit = limit
        self._waiting: deque[_Run[_Item]] = deque()
        self._runs: dict[int, list[_Run[_Item]]] = {}  # by sample; two where epochs meet
        self._wanted: list[_Run[_Item]] = []  # that threads are waiting for
        self._held = 0.0
        self._threads = 0
        self._changed = Condition()

    def ask(self, spans: Iterable[Span]) -> None:
        """Fetch spans, in this order, when there is room."""
        with self._changed:
            for span in spans:
                run: _Run[_Item] = _Run(span, self._size(span))
                self._waiting.append(run)
                for sample in range(span.first, span.first + span.samples):
                    self._runs.setdefault(sample, []).append(run)
            while self._threads < min(THREADS, len(self._waiting)):
                self._threads += 1
                Thread(target=self._work, name="fetch", daemon=True).start()

    def take(self, sample: int) -> _Item | None:
        """What was fetched for a sample, given once; None if nobody asked for it.

        Raises:
            DataError: its run can't be fetched.
        """
        with self._changed:
            runs = self._runs.get(sample)
            if not runs:
                return None
            run = runs.pop(0)
            if not runs:
                del self._runs[sample]
            self._wanted.append(run)
            is_ours = run in self._waiting
            if is_ours:
                self._start(run)
        if is_ours:
            run.fetch(self._fetch)
        try:
            return run.item(sample)
        finally:
            with self._changed:
                self._wanted.remove(run)
                self._held = max(0.0, self._held - run.each)
                self._changed.notify_all()

    def drop(self) -> None:
        """Forget what was asked for; threads that wait for it are told so."""
        with self._changed:
            for run in self._wanted:
                run.done.set()
            self._waiting.clear()
            self._runs.clear()
            self._held = 0.0
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._waiting or self._held < self._limit)
                if not self._waiting:
                    self._threads -= 1
                    return
                run = self._waiting[0]
                self._start(run)
            run.fetch(self._fetch)

    def _start(self, run: _Run[_Item]) -> None:
        self._waiting.remove(run)
        self._held += run.each * run.span.samples
