"""Heartbeats: each process tells what it is doing, and the one that the others wait for is named.

A collective that lacks a process waits in silence, and what ends it names nobody. So a thread of each
process writes into the launcher's store, once a second, which phase of which step it is in. Where the
main thread is in one phase for too long, or its collective breaks, all beats are looked at, the culprit
is named (`dvae.verdict`), and the process ends with exit code 7, whatever its main thread waits for.
What is found first is kept in the store, so that all processes say the same. While the main thread moves
on nothing is judged but the pace.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from threading import Event, Thread
from types import TracebackType

from torch import distributed

from dvae.errors import PeerError
from dvae.verdict import SILENCE, Beat, Pace, culprit
from dvae.world import shared_store

INTERVAL = 1.0  # seconds between the beats of a process
LOOK = SILENCE + 2 * INTERVAL  # seconds of looking at all beats before one is judged
STARTING = 300.0  # seconds, at least, for what comes before the first step
VERDICT, FAREWELL = "verdict", "farewell"  # keys: who keeps all waiting, and who ended by an error


@dataclass(frozen=True)
class Phase:
    """What the main thread is doing."""

    number: int  # in its step
    step: int
    name: str
    is_own: bool
    shard: Callable[[], str]
    began: float


class Heartbeat:
    """Tells what this process does, and watches that it isn't kept waiting; a context manager.

    Args:
        rank: of this process.
        world_size: with one process nothing is told or watched.
        timeout: seconds that a phase of a step may take.
        slow: times the others' work that a process may take for its own; 0: any.
    """

    def __init__(self, rank: int, world_size: int, timeout: float, slow: float = 0.0) -> None:
        self._rank, self._ranks, self._timeout = rank, range(world_size), timeout
        self._phase = Phase(0, 0, "starting", False, str, time.monotonic())
        self._busy = 0.0  # seconds in phases of its own that are over
        self._pace = Pace(timeout, slow if rank == 0 else 0.0)
        self._beats: dict[int, Beat] = {rank: Beat(socket.gethostname())}
        self._heard: dict[int, float] = {}  # when a rank's beats last went on
        self._answered = 0.0  # when the store last did
        self._said: dict[str, str] = {}  # what is to be kept in the store, by key
        self._found: dict[str, str] = {}  # what is kept there
        self._is_looking = self._is_broken = False  # at all beats; a collective
        self._known, self._wake, self._stopped = Event(), Event(), Event()
        self._threads: list[Thread] = []
        self._store: distributed.Store

    def enter(
        self, phase: str, step: int, is_own: bool = False, shard: Callable[[], str] = str
    ) -> None:
        """The main thread begins a phase; all processes call this alike.

        Args:
            phase: its name, as in "reading".
            step: steps that are done.
            is_own: it waits for no other process.
            shard: names what is being read, whenever it's asked.
        """
        now, before = time.monotonic(), self._phase
        self._busy += now - before.began if before.is_own else 0.0
        number = before.number + 1 if step == before.step else 1
        self._phase = Phase(number, step, phase, is_own, shard, now)

    def __enter__(self) -> "Heartbeat":
        """Meet the others.

        Raises:
            PeerError: one of them doesn't come.
        """
        if len(self._ranks) == 1:
            return self
        patience = max(self._timeout, STARTING)
        self._store = shared_store("heartbeat", patience)
        self._beat()
        for rank in self._ranks:
            try:
                self._store.wait([str(rank)])
            except distributed.DistError:
                raise PeerError(f"rank {rank} did not come within {patience:g} s") from None
        self._hear()
        self._threads = [Thread(target=work, daemon=True) for work in (self._tell, self._watch)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        """Stop; tell the others of an error, or find the process that caused it.

        Raises:
            PeerError: instead of the error of a collective, naming the culprit.
        """
        text = ""
        if self._threads and is_of_collective(error):
            self._is_broken = True
            self._known.wait(LOOK)
            text = self._found.get(FAREWELL) or self._agreed(VERDICT, self._culprit())
        elif self._threads and error is not None:
            name = f"rank {self._rank} on {self._beats[self._rank].host}"
            self._agreed(FAREWELL, f"{name} ended: {error or type(error).__name__}")
        if text:
            self._linger()
        self.stop()
        if text:
            raise PeerError(text) from None

    def stop(self) -> None:
        """Tell and watch no more."""
        self._stopped.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(INTERVAL)

    def _tell(self) -> None:
        """Beat until this is stopped, or the store is out of reach."""
        while not self._stopped.is_set():
            try:
                self._beat()
                self._hear()
            except distributed.DistError:
                return
            self._wake.wait(INTERVAL)
            self._wake.clear()

    def _beat(self) -> None:
        phase, before = self._phase, self._beats[self._rank]
        beat = Beat(
            host=before.host,
            number=before.number + 1,
            phases=phase.number,
            step=phase.step,
            phase=phase.name,
            shard=phase.shard(),
            seconds=time.monotonic() - phase.began,
            busy=self._busy,
        )
        self._store.set(str(self._rank), json.dumps(asdict(beat)))

    def _hear(self) -> None:
        """Read the beats of the first process and of this one, or of all; and what was found."""
        everyone = self._is_looking or self._is_broken or self._rank == 0
        ranks = self._ranks if everyone else sorted({0, self._rank})
        for rank, text in zip(ranks, self._store.multi_get([str(r) for r in ranks]), strict=True):
            beat = Beat(**json.loads(text))
            if rank not in self._heard or beat.number != self._beats[rank].number:
                self._heard[rank] = time.monotonic()
            self._beats[rank] = beat
        for key in (VERDICT, FAREWELL):
            if key in self._said:
                self._found[key] = self._store.compare_set(key, "", self._said[key]).decode()
            elif self._store.check([key]):
                self._found[key] = self._store.get(key).decode()
        self._answered = time.monotonic()
        if self._found:
            self._known.set()

    def _watch(self) -> None:
        """End the process where it waits in vain, or where another one has found a culprit."""
        while not self._stopped.wait(INTERVAL):
            now, phase = time.monotonic(), self._phase
            waited = now - phase.began
            limit = self._timeout if phase.number else max(self._timeout, STARTING)
            self._is_looking = waited > limit - LOOK
            if VERDICT in self._found:
                self._end(self._found[VERDICT])
            elif FAREWELL in self._found and waited > LOOK:
                self._end(self._found[FAREWELL])
            elif waited > limit and not (phase.is_own and self._can_hear()):  # others judge it
                self._end(self._agreed(VERDICT, self._culprit()))
            elif slow := self._pace.verdict(self._beats, now):
                self._end(self._agreed(VERDICT, slow))

    def _end(self, text: str) -> None:
        """End the process at once: its main thread may wait for ever."""
        self._linger()
        sys.stderr.write(f"\nerror: {PeerError(text)}\n")  # a progress bar may be open
        sys.stderr.flush()
        os._exit(PeerError.exit_code)

    def _linger(self) -> None:
        """The store goes with the first process's machine: let the others hear what was found."""
        if self._rank == 0:
            time.sleep(2 * INTERVAL)

    def _culprit(self) -> str:
        now = time.monotonic()
        silent = {rank: now - heard for rank, heard in self._heard.items()}
        return culprit(self._beats, silent, self._can_hear())

    def _can_hear(self) -> bool:
        return time.monotonic() - self._answered < SILENCE

    def _agreed(self, key: str, text: str) -> str:
        """What all processes say: what was found first, or this where it can't be kept."""
        self._said[key] = text
        self._known.clear()
        self._wake.set()
        self._known.wait(2 * INTERVAL)
        return self._found.get(key, text)


def is_of_collective(error: BaseException | None) -> bool:
    """Whether an error is a collective's that broke: gloo's have no type of their own."""
    is_gloo = isinstance(error, RuntimeError) and "/gloo/" in str(error)
    return is_gloo or isinstance(error, distributed.DistError)
