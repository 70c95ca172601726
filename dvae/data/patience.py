"""How long a remote read is tried, and how: again from the byte where it broke, after longer pauses.

Waits grow by doubling, from half a second to half a minute, each drawn between a half and the whole
of it, so that a thousand processes don't come back at the same instant.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dvae.data.storage import StoreError


class Passing(Exception):  # noqa: N818 - not an end, a reason to try again
    """A failure that may pass: reset, stall, 5xx …; `after` is the server's wish, in seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class Patience:
    """Limits of one read, all its tries together. Seconds, but for `tries`."""

    total: float = 120.0  # peers wait ten minutes for each other
    connect: float = 10.0
    silence: float = 30.0  # without a byte
    tries: int = 12  # in a row that bring nothing
    first_pause: float = 0.5
    longest_pause: float = 30.0  # Retry-After too

    def pause(self, failures: int, after: float) -> float:
        """Before the next try, after so many failures in a row."""
        grown = min(self.first_pause * 2.0 ** min(failures - 1, 30), self.longest_pause)
        # The system's own randomness: the seeded draws of a training stay as they are.
        drawn = grown * random.SystemRandom().uniform(0.5, 1.0)
        return max(drawn, min(after, self.longest_pause))


class Deadline:
    """The moment at which a read gives up."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, at least 0."""
        return max(0.0, self._end - time.monotonic())


Pieces = Callable[[int, Deadline], Iterator[bytes]]


def gather(pieces: Pieces, size: int, patience: Patience, what: str) -> bytes:
    """Exactly `size` bytes, from as many requests as it takes.

    Args:
        pieces: gives the bytes from a position on, counted from the read's start; a stream that
            breaks raises `Passing`, one that ends early is asked again from where it ended.
        size: bytes.
        patience: when to give up.
        what: names the read in a message; without secrets.

    Raises:
        StoreError: it can't be had, with the last reason.
    """
    data = bytearray()
    deadline = Deadline(patience.total)
    failures = 0
    while len(data) < size:
        had, after, reason = len(data), 0.0, "the connection ended early"
        try:
            for piece in pieces(len(data), deadline):
                data += piece[: size - len(data)]
                if len(data) == size:
                    return bytes(data)
                if not deadline.left():
                    raise Passing("it is too slow")
        except Passing as error:
            after, reason = error.after, str(error)
        failures = 1 if len(data) > had else failures + 1
        pause = patience.pause(failures, after)
        if failures >= patience.tries or pause >= deadline.left():
            raise StoreError(f"{what}: {reason} ({len(data)} of {size} bytes came); gave up")
        time.sleep(pause)
    return bytes(data)
