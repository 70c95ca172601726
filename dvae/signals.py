"""Being asked to stop: the step under way is finished and saved, then the run ends."""

import ctypes
import os
import signal
import sys
import time
from types import FrameType

from dvae import STARTED_BY

PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TWICE = 2.0  # seconds; a launcher may pass on a Ctrl-C that this process got, too
LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # by accelerate, by torchrun


def die_with_launcher() -> None:
    """Let the launcher's death count as SIGTERM, on Linux: a trainer isn't left running alone.

    Accelerate's launcher may be killed without telling its processes. Until there is a `StopRequest`
    signals end this process at once, whatever it waits for: there is nothing to save yet.
    """
    if sys.platform != "linux" or not any(name in os.environ for name in LAUNCHED):
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = os.getppid()
    if STARTED_BY.get(os.getpid(), parent) != parent:  # it died before
        os.kill(os.getpid(), signal.SIGTERM)


class StopRequest:
    """Remembers SIGINT, SIGTERM and SIGUSR1; a second SIGINT, some seconds later, interrupts at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        for number in STOPPING:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal == number == signal.SIGINT and now - self._since > TWICE:
            raise KeyboardInterrupt
        if not self.signal:
            self._since = now
        self.signal = number
        sys.stderr.write("\nstopping after this step; what is finished will be saved\n")
