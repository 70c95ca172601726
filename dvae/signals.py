"""Being asked to stop: the step under way is finished and saved, then the run ends."""

import ctypes
import os
import signal
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


class StopRequest:
    """Remembers SIGINT and SIGTERM; a second SIGINT interrupts at once.

    Accelerate's launcher may be killed without telling this process, so under it, on Linux, its death
    counts as SIGTERM: a trainer isn't left running alone.
    """

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)
        if sys.platform == "linux" and "ACCELERATE_MIXED_PRECISION" in os.environ:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        sys.stderr.write("\nstopping after this step; what is finished will be saved\n")
