"""Writing while training goes on: one thing at a time, and a disk that fails is told, not fatal at once."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from tqdm import tqdm

from dvae.errors import FULL, ResourceError

MOST_FAILURES = 3  # in a row


class Saver:
    """Runs what writes checkpoints: in a thread of its own, or at once.

    Args:
        in_background: training goes on meanwhile; an error surfaces at the next `check`.
    """

    def __init__(self, in_background: bool) -> None:
        self._pool = ThreadPoolExecutor(1, "save") if in_background else None
        self._pending: Future[None] | None = None
        self._what = ""
        self._failures = 0
        self._remedy = ""  # of the last failure

    def start(self, what: str, write: Callable[[], None]) -> None:
        """Write, when what is being written is done; `what` names it in messages."""
        self.wait()
        self._what = what
        if self._pool:
            self._pending = self._pool.submit(write)
        else:
            self._pending = Future()
            try:
                write()
                self._pending.set_result(None)
            except OSError as error:
                self._pending.set_exception(error)
            self.wait()

    def check(self) -> None:
        """Raise what went wrong with a writing that is over; doesn't wait for one that isn't."""
        if self._pending and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            ResourceError: the disk has failed three times in a row.
            CheckpointError, NonFiniteError: what was to be written is wrong.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except OSError as error:
            self._failures += 1
            self._remedy = "make room" if error.errno in FULL else "see to the folder"
            told = f"{self._what} could not be written ({error.strerror or error})"
            if self._failures >= MOST_FAILURES:
                raise ResourceError(
                    f"{told}, the third failure in a row: what was saved before is whole: {self._remedy}, "
                    "and run the same command again"
                ) from None
            tqdm.write(f"{told}: what was saved before is kept, and training goes on")
        else:
            self._failures = 0

    def finish(self) -> None:
        """Wait, and insist that the last thing was written.

        Raises:
            ResourceError: it wasn't.
        """
        self.wait()
        if self._failures:
            raise ResourceError(
                f"{self._what} could not be written: what was saved before is whole: {self._remedy}, "
                "and run the same command again"
            )
