"""Asks a launched run to stop, in every way and at any time, and proves that no finished step is lost.

    python tests/faults/stops.py RECIPE --trials 100 [--processes 2] [key=value …]

Each trial launches the run with `accelerate launch`, waits for a random time, and sends SIGTERM, SIGINT or
SIGUSR1 to the launcher, to one process or to all of them, or SIGKILL to the launcher. Within the launcher's
grace all must be over, nobody left behind, and the newest checkpoint must be of the last step that was
finished. The next trial goes on from it; a run that came to its end must be the undisturbed one, file by file
and step by step.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])

from tests.faults.chaos import RECORDED, Chaos, command_line, differing

ROOT = Path(__file__).parents[2]
GRACE = 30.0  # seconds that a launcher gives its processes; then it kills them, and needs some more itself
LIMIT = 180.0  # seconds that a run may take to come to its first step
WAYS = [
    *(
        (f"SIG{name}", whom)
        for name in ("TERM", "INT", "USR1")
        for whom in ("launcher", "one", "all")
    ),
    ("SIGKILL", "launcher"),
]


@dataclass
class Stops(Chaos):
    """A recipe, and what came of stopping it."""

    seconds: list[float] = field(default_factory=list)  # from a signal to the end of all
    early: int = 0  # signals before the first step of a life

    def launch(self, name: str, **environment: str) -> subprocess.Popen[bytes]:
        """Begin, or go on with, a run."""
        record = self.folder / f"{name}-record"
        record.mkdir(exist_ok=True)
        yaml = "cpu.yaml" if self.processes > 1 else "single_gpu.yaml"
        command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
        command += ["--config_file", str(ROOT / "launch" / yaml)]
        command += ["--num_processes", str(self.processes), str(RECORDED), str(self.recipe)]
        command += [*self.overrides, f"run.dir={self.folder}", f"run.name={name}"]
        world = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "DVAE_RECORD": str(record)}
        world = {**os.environ, **world, **environment}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=world, stdout=log, stderr=log)

    def stop_one(self, name: str, way: tuple[str, str]) -> bool:
        """Ask a run to stop; True if it came to its end first."""
        size, before = self.recorded_bytes(name), self.check_whole(name)
        launcher = self.launch(name)
        if self.draw.random() < 0.2:
            wait(launcher, lambda: False, self.draw.uniform(0, 10))  # it is starting
        else:
            wait(launcher, lambda: self.recorded_bytes(name) > size, LIMIT)
            wait(launcher, lambda: False, self.draw.uniform(0, 2))
        has_begun, asked = self.recorded_bytes(name) > size, time.monotonic()
        for pid in self.targets(launcher, name, way[1]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, getattr(signal, way[0]))
        code = self.end(launcher, name)
        self.seconds.append(time.monotonic() - asked)
        after = self.check_whole(name)
        if code == 0:
            return True
        self.kills[" to ".join(way)] += 1
        self.early += not has_begun
        done = self.last_step(name) if has_begun else before
        assert after >= done, f"{way}: step {done} is lost, {after} was saved: {self.log(name)}"
        return False

    def end(self, launcher: subprocess.Popen[bytes], name: str) -> int:
        """Wait for a launcher and all that it started; its exit code."""
        began = time.monotonic()
        wait(launcher, lambda: False, 2 * GRACE)
        code = launcher.poll()
        assert code is not None, f"the launcher doesn't end: {self.log(name)}"
        while self.left(name) and time.monotonic() - began < 2 * GRACE:
            time.sleep(0.2)
        assert not self.left(name), f"somebody was left: {self.log(name)}"
        return code

    def targets(self, launcher: subprocess.Popen[bytes], name: str, whom: str) -> list[int]:
        """The processes that get the signal."""
        if launcher.poll() is not None:
            return []
        trainers = [pid for pid in self.left(name) if pid != launcher.pid]
        if whom == "launcher" or not trainers:
            return [launcher.pid]
        everyone = [launcher.pid, *trainers]
        return self.draw.sample(*((everyone, len(everyone)) if whom == "all" else (trainers, 1)))

    def left(self, name: str) -> list[int]:
        """The processes of a run that live, told by what its launcher put in their environment."""
        mark = f"DVAE_RECORD={self.folder / f'{name}-record'}\0".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it is over
                if mark in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    @contextlib.contextmanager
    def nobody_left(self, name: str) -> Iterator[None]:
        """Kill what is left of a run that failed."""
        try:
            yield
        finally:
            for pid in self.left(name):
                os.kill(pid, signal.SIGKILL)

    def last_step(self, name: str) -> int:
        """How many steps the first process has finished, once it is over."""
        text = (self.folder / f"{name}-record" / "rank-0.jsonl").read_text()
        return int(re.findall(r'"step": (\d+)', text)[-1]) + 1


def wait(launcher: subprocess.Popen[bytes], reached: Callable[[], bool], seconds: float) -> None:
    """Until something is reached, the launcher is over, or some seconds are."""
    end = time.monotonic() + seconds
    while not reached() and launcher.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def run_stops(stops: Stops, trials: int) -> None:
    """Stop runs so often, and compare each that came to its end with the undisturbed one."""
    assert stops.launch("whole").wait() == 0, stops.log("whole")
    whole = stops.result("whole")
    left = trials
    while left:
        name, is_over = f"stopped-{stops.rounds}", False
        while left and not is_over:
            way = stops.draw.choice(WAYS)
            with stops.nobody_left(name):
                is_over = stops.stop_one(name, way)
            left -= not is_over
            print(f"{way} {stops.seconds[-1]:.1f} s, {left} left", file=sys.stderr, flush=True)
        assert stops.launch(name).wait() == 0, stops.log(name)
        found = stops.result(name)
        assert found.digests == whole.digests, differing(found.digests, whole.digests)
        assert found.steps == whole.steps, "ids or losses differ"
        stops.rounds += 1


def main() -> None:
    """The command line."""
    given = command_line(__doc__, "--trials", 10, 2)
    with Stops.asked(given) as stops:
        run_stops(stops, given.trials)
    print(
        f"{given.trials} stops ({stops.ways()}; {stops.early} before the first step) of {given.processes} "
        f"processes in {stops.rounds} runs: 0 steps lost, nobody left; the longest took "
        f"{max(stops.seconds):.1f} s; all SHA-256 equal"
    )


if __name__ == "__main__":
    main()
