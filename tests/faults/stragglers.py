"""Kills, stops, slows or hangs one process of a launched run, and proves that the others name it and end.

    python tests/faults/stragglers.py RECIPE --trials 30 [--processes 2] [key=value …]

Each trial launches the run with `accelerate launch`, waits for a random time after its first step, and does
one of these to one process at random. Within `train.peer_timeout` and ten seconds another process must have
ended with exit code 7 and told the rank, host and phase, and the shard of one that hangs in reading it;
within the launcher's grace nobody may be left, and every checkpoint must be whole. The next trial goes on
from the newest.
"""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])

from dvae.recipe import load_config
from tests.faults.chaos import command_line
from tests.faults.stops import LIMIT, Stops, wait
from tests.processes import hindered

SLACK = 10.0  # seconds after the timeout
HANGS = """
import os, threading
from dvae.data.reader import Reader
if os.environ["RANK"] == "{rank}":
    Reader.picture = lambda *_: threading.Event().wait()
"""
SILENT = r"was last heard of \d+ s ago, (starting|[a-z].* at step \d+)"
TOLD = {  # what the others must say of a rank on a host
    "killed": SILENT,
    "stopped": SILENT,
    "hanging": r"has been reading train-\d+\.tar at step \d+ for \d+ s",
    "slow": r"has been slow for \d+ s",
}


class Stragglers(Stops):
    """A recipe, and what came of losing its processes."""

    def lose_one(self, name: str, way: str) -> None:
        """Launch or go on with a run, lose one of its processes, and see it named."""
        rank, before = self.draw.randrange(self.processes), self.check_whole(name)
        size, said = self.recorded_bytes(name), len(self.said(name))
        hangs = {}
        if way == "hanging":
            step = max(before, 0) + self.draw.randint(3, 30)
            hangs = {"DVAE_AT_STEP": json.dumps({step: HANGS.format(rank=rank)})}
        launcher = self.launch(name, **hangs)
        wait(launcher, lambda: self.recorded_bytes(name) > size, LIMIT)
        if way == "hanging":
            wait(launcher, lambda: self.last_step(name) > step, LIMIT)
        else:
            wait(launcher, lambda: False, self.draw.uniform(0, 2))
        assert launcher.poll() is None, self.log(name)
        lost, asked = self.process(name, rank), time.monotonic()
        with hindered(partial(os.kill, lost)) if way == "slow" else contextlib.nullcontext():
            if way in ("killed", "stopped"):
                os.kill(lost, signal.SIGKILL if way == "killed" else signal.SIGSTOP)
            limit = load_config(self.recipe, self.overrides).train.peer_timeout + SLACK
            wait(launcher, lambda: "\nerror: " in self.said(name)[said:], limit)
            took = time.monotonic() - asked
        told = re.findall(r"^error: (.*)$", self.said(name)[said:], re.M)
        expected = rf"rank {rank} on {re.escape(socket.gethostname())} {TOLD[way]}"
        assert told, f"{way}: nothing is said within {limit:g} s: {self.log(name)}"
        assert all(re.match(expected, text) for text in told), f"{way}: {told}"
        assert self.end(launcher, name) == 1, self.log(name)
        assert re.search(r"exitcode\s*: 7\b", self.said(name)[said:]), self.log(name)
        assert self.check_whole(name) >= before
        self.seconds.append(took)
        self.kills[way] += 1

    def process(self, name: str, rank: int) -> int:
        """The process of a rank."""
        mark = f"\0RANK={rank}\0".encode()
        [pid] = [
            pid for pid in self.left(name) if mark in Path(f"/proc/{pid}/environ").read_bytes()
        ]
        return pid

    def said(self, name: str) -> str:
        """All that a run has said."""
        path = self.folder / f"{name}.log"
        return path.read_text().replace("\r", "\n") if path.exists() else ""


def main() -> None:
    """The command line."""
    given = command_line(__doc__, "--trials", 4, 2)
    with Stragglers.asked(given) as trials, trials.nobody_left("lost"):
        for number in range(given.trials):
            way = list(TOLD)[number % len(TOLD)]
            trials.lose_one("lost", way)
            print(f"{way} {trials.seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    print(
        f"{given.trials} of {given.processes} processes lost ({trials.ways()}): rank, host and phase named "
        f"each time, after {max(trials.seconds):.1f} s at most; exit code 7, nobody left"
    )


if __name__ == "__main__":
    main()
