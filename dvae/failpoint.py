"""Places where a test can kill the process, as a power cut would: `DVAE_FAILPOINT=NAME[:COUNT]`.

The process gets SIGKILL when it comes to the failpoint NAME for the COUNT-th time (1 unless given).
"""

import os
import signal
from itertools import count

_visits = count(1)


def failpoint(name: str) -> None:
    """Die here if the environment says so."""
    place, _, number = os.environ.get("DVAE_FAILPOINT", "").partition(":")
    if name == place and next(_visits) == int(number or 1):
        os.kill(os.getpid(), signal.SIGKILL)
