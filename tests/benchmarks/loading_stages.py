"""Where our loader's time goes: processor microseconds an image, stage by stage, on one thread.

    python loading_stages.py DATA SIZE          prints JSON; loading.py makes a table of it

Each stage is one function of the chain, wrapped; what is left (Python, the batch, the threads' hand-over)
is the rest of the process's time. A wrapper costs about a microsecond, which the rest pays.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import simplejpeg
import torch
from loading_job import BATCH
from loading_ours import loader_of

from dvae.data import decode, reader, storage

BATCHES = 24
STAGES: dict[str, list[tuple[Any, str]]] = {
    "read": [(storage.LocalStore, "read")],
    "check": [(reader, "is_whole"), (reader, "crc32")],
    "parse": [(simplejpeg, "decode_jpeg_header")],
    "decode": [(simplejpeg, "decode_jpeg")],
    "resize": [(decode, "_resize")],
}


def timed(function: Callable[..., Any], name: str, spent: dict[str, int]) -> Callable[..., Any]:
    """The same function, its thread's processor time added to `spent`."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        began = time.thread_time_ns()
        result = function(*arguments, **named)
        spent[name] += time.thread_time_ns() - began
        return result

    return wrapped


def stages(data: Path, size: int) -> dict[str, float]:
    """Microseconds an image by stage, and "all"."""
    spent: dict[str, int] = defaultdict(int)
    for name, places in STAGES.items():
        for owner, attribute in places:
            setattr(owner, attribute, timed(getattr(owner, attribute), name, spent))
    with loader_of(data / "shards", size, 1) as loader:
        for _ in range(6):
            next(loader)
        before, began = dict(spent), time.process_time()
        for _ in range(BATCHES):
            next(loader)
        total = (time.process_time() - began) * 1e6
        parts = {name: (spent[name] - before[name]) / 1e3 for name in STAGES}
    parts |= {"Python and batch": total - sum(parts.values()), "all": total}
    return {name: value / BATCHES / BATCH for name, value in parts.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(stages(Path(sys.argv[1]), int(sys.argv[2]))))
