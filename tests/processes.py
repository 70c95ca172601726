"""Processes that find each other as a launcher's do, each with its own folder, command and exit code."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SECONDS = 300  # of a machine that does other things, too


@dataclass(frozen=True)
class Part:
    """What one of them runs, and where."""

    command: list[str]
    folder: Path
    environment: dict[str, str]


@dataclass(frozen=True)
class Ended:
    """How it ended."""

    code: int
    out: str
    err: str


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def hindered(send: Callable[[int], None]) -> Iterator[None]:
    """Let what gets the signals that are sent have a tenth of its time."""
    is_over = threading.Event()

    def hinder() -> None:
        with contextlib.suppress(ProcessLookupError):  # it is over
            while not is_over.is_set():
                send(signal.SIGSTOP)
                is_over.wait(0.36)
                send(signal.SIGCONT)
                is_over.wait(0.04)

    thread = threading.Thread(target=hinder)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def run_together(parts: list[Part]) -> list[Ended]:
    """Run them, and wait for all."""
    port = free_port()
    running = []
    for rank, part in enumerate(parts):
        world = {
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(len(parts)),
            "LOCAL_WORLD_SIZE": str(len(parts)),
        }
        running.append(
            subprocess.Popen(
                part.command,
                cwd=part.folder,
                env={**os.environ, **world, **part.environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=SECONDS) for process in running]
    finally:
        for process in running:
            process.kill()
    return [Ended(p.returncode, *texts) for p, texts in zip(running, said, strict=True)]
