"""Runs of samples fetched by one request each, ahead of their use: what makes remote shards fast.

Threads fetch the runs in the order in which they were asked for, while what is held (fetched and not
yet taken) is below a limit of bytes. A run that is wanted before its turn is fetched by the thread
that wants it, so memory is bounded by the limit and a run or, where that is more, by the runs that are
read from at a time.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from threading import Condition, Event, Thread
from typing import Generic, TypeVar

from dvae.data.order import Span
from dvae.errors import DataError

MAX_BYTES = 128 << 20  # held; a run that is wanted at once may exceed it
THREADS = 8  # requests under way

_Item = TypeVar("_Item")
Fetch = Callable[[Span], list[_Item]]


class _Run(Generic[_Item]):
    """Samples that one request fetches, all those between them too, and what became of it."""

    def __init__(self, samples: list[int], each: float) -> None:
        self.samples = samples  # ascending
        self.each = each  # bytes, about
        self.failure = "its reading was given up"
        self.mistake: Exception | None = None  # of the program: whoever wants a sample raises it
        self.done = Event()
        self._items: dict[int, _Item] = {}  # fetched and not yet taken

    def fetch(self, fetch: Fetch[_Item]) -> None:
        first, last = self.samples[0], self.samples[-1]
        try:
            items = fetch(Span(first, last - first + 1))
            self._items = {sample: items[sample - first] for sample in self.samples}
        except (DataError, OSError) as error:
            self.failure = str(error)
        except Exception as error:  # noqa: BLE001 - a thread that died of it would tell nobody
            self.mistake = error
        finally:
            self.done.set()

    def item(self, sample: int) -> _Item:
        """Of one sample, once it's there; given once."""
        self.done.wait()
        try:
            return self._items.pop(sample)
        except KeyError:
            raise self.mistake or DataError(self.failure) from None


class Windows(Generic[_Item]):
    """Runs of samples on their way; safe to use from several threads.

    Args:
        fetch: gives an item for each sample of a span, or raises `DataError`.
        size: of a span, in bytes, about.
        limit: of bytes held, above which nothing more is fetched ahead.
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
        self.held = 0.0  # bytes that are fetched, or on their way, and not yet taken
        self._threads = 0
        self._changed = Condition()

    def ask(self, spans: Iterable[Span], without: Collection[int] = ()) -> None:
        """Fetch spans, in this order, when there is room; nobody will take the samples `without`."""
        with self._changed:
            for span in spans:
                whole = range(span.first, span.first + span.samples)
                samples = [sample for sample in whole if sample not in without]
                if not samples:
                    continue
                run: _Run[_Item] = _Run(samples, self._size(span) / span.samples)
                self._waiting.append(run)
                for sample in samples:
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
                self.held = max(0.0, self.held - run.each)
                self._changed.notify_all()

    def drop(self) -> None:
        """Forget what was asked for; threads that wait for it are told so."""
        with self._changed:
            for run in self._wanted:
                run.done.set()
            self._waiting.clear()
            self._runs.clear()
            self.held = 0.0
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._waiting or self.held < self._limit)
                if not self._waiting:
                    self._threads -= 1
                    return
                run = self._waiting[0]
                self._start(run)
            run.fetch(self._fetch)

    def _start(self, run: _Run[_Item]) -> None:
        self._waiting.remove(run)
        self.held += run.each * len(run.samples)
