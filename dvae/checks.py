"""What a machine can hold: shared memory, descriptors, disk, memory, ports, locale.

A `Note` is one line that says in words what was found and, where it isn't well, what to do.
"""

import locale
import os
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from dvae.errors import UserError

SHARED = Path("/dev/shm")
LEAST_SHARED = 64 << 20  # bytes; what a container has unless told otherwise, and NCCL's rings take
FEW_FILES = 256  # descriptors; sockets of remote shards and of other processes come on top of files
LITTLE_DISK = 1 << 30  # bytes
LITTLE_MEMORY = 2 << 30  # bytes; torch and a few threads that decode
UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
Verdict = Literal["ok", "warning", "wrong"]


class Note(NamedTuple):
    """One thing that was looked at."""

    verdict: Verdict
    subject: str
    text: str  # what was found; where it isn't well, also the remedy

    def __str__(self) -> str:
        return f"{self.verdict:8} {self.subject:16} {self.text}"


def noted(subject: str, good: bool, text: str, remedy: str, worst: Verdict = "warning") -> Note:
    """Well, or of the `worst` kind, with its remedy."""
    return Note("ok", subject, text) if good else Note(worst, subject, f"{text}: {remedy}")


def attempt(subject: str, look: Callable[[], Iterator[Note]]) -> Iterator[Note]:
    """The notes of a look; what it can't read is one more that is wrong."""
    try:
        yield from look()
    except UserError as error:
        yield Note("wrong", subject, str(error))
    except OSError as error:
        yield Note("wrong", subject, f"{error.filename}: {error.strerror}")


def amount(count: float) -> str:
    """Bytes for people: 1.2 GB."""
    power = 0
    while count >= 999.5 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {UNITS[power]}"


def shared_memory() -> Note:
    """Where processes of one machine exchange gradients; threads decode pictures without it."""
    if not SHARED.is_dir():
        return Note("ok", "shared memory", f"there is no {SHARED} here, and one process needs none")
    free = shutil.disk_usage(SHARED).free
    remedy = "several processes on this machine need more: docker run --shm-size=1g, or --ipc=host"
    return noted("shared memory", free >= LEAST_SHARED, f"{SHARED} has {amount(free)} free", remedy)


def open_files() -> Note:
    """The descriptors that a process may hold."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most == resource.RLIM_INFINITY:
        return Note("ok", "open files", "as many as you like")
    remedy = "remote shards and several processes need more: ulimit -n 4096"
    return noted("open files", most >= FEW_FILES, f"a process may hold {most}", remedy)


def disk(folder: Path, needed: int = LITTLE_DISK) -> Note:
    """The room where a folder is, or will be.

    Args:
        folder: that is to be written.
        needed: bytes.
    """
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Note("wrong", "disk", f"{there} can't be written: choose another run.dir")
    free = shutil.disk_usage(there).free
    found = f"{there} has {amount(free)} free"
    return noted("disk", free >= needed, found, f"make room for {amount(needed)}, or set run.dir")


def memory() -> Note:
    """Host memory that is available, within the limit of a container."""
    free = _available_memory()
    if free is None:
        return Note("ok", "memory", "can't be asked for here")
    remedy = "fewer data.threads, a smaller train.micro_batch_size, or a larger machine"
    return noted("memory", free >= LITTLE_MEMORY, f"{amount(free)} available", remedy)


def _available_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {name: int(value.split()[0]) << 10 for name, value in (x.split(":") for x in lines)}
        free = found["MemAvailable"]
    except (OSError, ValueError, KeyError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        most, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, int(most) - int(used))
    except (OSError, ValueError):  # no group, or "max"
        return free


def port(number: int, whose: str, remedy: str) -> Note:
    """Whether a port of this machine is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            return Note("warning", "port", f"{number}, {whose}: {error.strerror}: {remedy}")
    return Note("ok", "port", f"{number}, {whose}, is free")


def encoding() -> Note:
    """Whether names of files and messages can hold every letter."""
    names, told = sys.getfilesystemencoding(), sys.stdout.encoding or "none"
    good = all(name.lower().replace("-", "") == "utf8" for name in (names, told))
    text = f"{locale.setlocale(locale.LC_CTYPE)}: names of files are {names}, messages {told}"
    return noted("locale", good, text, "export LC_ALL=C.UTF-8")


def home() -> Note:
    """Where the Hub and torch keep what they fetched."""
    try:
        folder = Path.home()
    except RuntimeError:
        folder = Path("~")
    good = os.access(folder, os.W_OK)
    remedy = "set HOME, or HF_HOME and TORCH_HOME, to a folder that can be written"
    return noted("home", good, f"{folder} {'can' if good else 'can not'} be written", remedy)
