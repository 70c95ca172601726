"""TensorBoard's event file, written so that a full disk costs neither the run nor the file.

TensorFlow's record format. `SummaryWriter` hands its records to a thread that dies of the first
error; here they are appended at once, what could not be written whole is cut off again and kept for
the next time, and nothing raises.
"""

import os
import re
import socket
import time
from collections import deque
from io import BytesIO
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

PREFIX = "events.out.tfevents."
KEPT = 16 << 20  # bytes that wait for room; past that the oldest are dropped


class EventFile:
    """An event file of its own for each life of a run.

    Args:
        folder: of the events; made if its parent is there.
        step: what an earlier life wrote after it is hidden by TensorBoard.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / f"{PREFIX}{_began(folder):.6f}.{socket.gethostname()}.{os.getpid()}"
        self._begin = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self._waiting: deque[bytes] = deque()
        self._failing = False
        self.flush()

    def add(self, summary: Summary, step: int) -> None:
        """Take a summary, to be written at the next `flush`."""
        self._waiting.append(_record(Event(summary=summary, step=step, wall_time=time.time())))
        while sum(map(len, self._waiting)) > KEPT:
            self._waiting.popleft()

    def flush(self) -> None:
        """Append what waits; a failure is told once, until there is room again."""
        try:
            self._append()
        except OSError as error:
            if not self._failing:
                tqdm.write(
                    f"{self.path.parent} cannot be written ({error.strerror}): training goes on, and "
                    "what TensorBoard would have shown is kept until there is room, as far as it fits"
                )
            self._failing = True
            return
        if self._failing:
            tqdm.write(f"{self.path.parent} is written again")
        self._failing = False

    def _append(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("ab", buffering=0) as file:  # anew: the folder may have been replaced
            if file.tell() == 0:
                version = Event(wall_time=time.time(), file_version="brain.Event:2")
                _write_whole(file.fileno(), _record(version) + _record(self._begin))
            while self._waiting:
                _write_whole(file.fileno(), self._waiting[0])
                self._waiting.popleft()


def _began(folder: Path) -> float:
    """Now, in seconds, or just after the newest file: TensorBoard reads them in the order of names."""
    found = (re.match(r"\d+(\.\d{6}\b)?", p.name[len(PREFIX) :]) for p in folder.glob(f"{PREFIX}*"))
    return max([time.time(), *(float(match[0]) + 1e-6 for match in found if match)])


def _record(event: Event) -> bytes:
    buffer = BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()


def _write_whole(descriptor: int, data: bytes) -> None:
    """Append all of it or none of it."""
    size = os.fstat(descriptor).st_size
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise
