"""Kills a real run at random and proves that nothing was lost.

    python tests/faults/chaos.py RECIPE --kills 20 [--processes 2] [key=value …]

The recipe is trained once undisturbed, then again and again with SIGKILL at random moments: while it
starts, trains or evaluates, and inside saves (`dvae/failpoint.py`). After each kill whatever has its
final name must be whole and no older than before; at the end the files of the last checkpoint, the
weights folder, and the ids and losses of every step of every life must equal the undisturbed run's.
Lives are forked from a process that has imported everything, each process a rank of its own; their
decoding threads differ. Small `train.steps` and `train.save_every` make many lives and many saves.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Self

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])

import torch._dynamo  # noqa: F401 - an optimizer imports it, for half of a short life

import dvae.train  # noqa: F401 - imported once, before the lives are forked
from dvae.checkpoint import Checkpoints
from dvae.files import damage, sha256
from dvae.recipe import load_config
from tests.processes import free_port

RECORDED = Path(__file__).parents[1] / "recorded_train.py"
POINTS = (
    *("model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json"),
    *("folder flushed", "opened", "written", "flushed", "renamed", "folder written"),
    *("folder aside", "folder renamed", "verified", "doomed", "pruned"),
)
LIMIT = 120  # seconds that a life may take before it is called hung


@dataclass
class Chaos:
    """A recipe, where its lives are kept, and what came of them."""

    recipe: Path
    overrides: list[str]
    processes: int
    folder: Path
    draw: Random
    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    steps_again: int = 0  # that a later life did again

    @classmethod
    @contextlib.contextmanager
    def asked(cls, given: argparse.Namespace) -> Iterator[Self]:
        """Trials of what a command line names, in a folder of their own."""
        load_config(given.recipe, given.overrides)
        with tempfile.TemporaryDirectory(prefix=f"{cls.__name__.lower()}-") as folder:
            draw = Random(given.seed)
            yield cls(given.recipe.absolute(), given.overrides, given.processes, Path(folder), draw)

    def ways(self, between: str = " ") -> str:
        """How often each way was taken."""
        return ", ".join(f"{count}{between}{way}" for way, count in sorted(self.kills.items()))

    def undisturbed(self) -> "Result":
        """The run that isn't killed, and the seconds that its steps took."""
        began = time.monotonic()
        life = self.start("whole")
        assert ended(life) == [0] * self.processes, self.log("whole")
        self.seconds = time.monotonic() - began
        return self.result("whole")

    def start(self, name: str, point: str = "") -> list[int]:
        """Begin or go on with a run; the ids of its processes."""
        record = self.folder / f"{name}-record"
        record.mkdir(exist_ok=True)
        threads = self.draw.choice((1, 2, 3))
        arguments = [f"run.dir={self.folder}", f"run.name={name}", f"data.threads={threads}"]
        world = {"DVAE_RECORD": str(record), "DVAE_FAILPOINT": point}
        if self.processes > 1:
            world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
            world["WORLD_SIZE"] = str(self.processes)
        argv = [str(RECORDED), str(self.recipe), *self.overrides, *arguments]
        return [self._fork(name, argv, world, rank) for rank in range(self.processes)]

    def _fork(self, name: str, argv: list[str], world: dict[str, str], rank: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            with (self.folder / f"{name}.log").open("ab", buffering=0) as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            if self.processes > 1:
                world |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            os.environ |= world
            if rank:  # the failpoints are the first process's
                os.environ.pop("DVAE_FAILPOINT")
            sys.argv[:] = argv
            runpy.run_path(str(RECORDED), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001 - a forked child may not return
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def one_life(self, name: str) -> bool:
        """Let a run live until it is killed; True if it came to its end instead."""
        way = self.draw.choices(("running", "starting", "saving"), (5, 1, 4))[0]
        point = f"{self.draw.choice(POINTS)}:{self.draw.choice((1, 1, 2, 3))}"
        before = self.check_whole(name)
        size = self.recorded_bytes(name)
        life = self.start(name, point if way == "saving" else "")
        deadline = time.monotonic() + LIMIT
        while way != "starting" and self.recorded_bytes(name) == size and not any_ended(life):
            assert time.monotonic() < deadline, f"no step within {LIMIT} s: {self.log(name)}"
            time.sleep(0.02)
        wait = self.draw.uniform(0, min(2.0, self.seconds / 6))
        until = time.monotonic() + (LIMIT if way == "saving" else wait)
        while time.monotonic() < until and not any_ended(life):
            time.sleep(0.002)
        first, *others = self.draw.sample(life, len(life))
        os.kill(first, signal.SIGKILL)  # one process dies before the others
        time.sleep(self.draw.uniform(0, 0.05) if others else 0)
        for pid in others:
            os.kill(pid, signal.SIGKILL)
        codes = ended(life)
        assert set(codes) <= {0, -signal.SIGKILL} or self.processes > 1, self.log(name)
        after = self.check_whole(name)
        assert after >= before, f"the newest checkpoint was of step {before}, now of {after}"
        if codes == [0] * self.processes:
            return True
        self.kills[way] += 1
        return False

    def check_whole(self, name: str) -> int:
        """Everything that has its final name is whole; returns the newest step, or -1."""
        checkpoints = Checkpoints(self.folder / name / "checkpoints", 1).names()
        for path in checkpoints.values():
            assert damage(path) is None, f"{path}: {damage(path)}"
        weights = self.folder / name / "weights"
        assert not weights.exists() or damage(weights) is None, f"{weights}: {damage(weights)}"
        return max(checkpoints, default=-1)

    def recorded_bytes(self, name: str) -> int:
        """How much the processes of a run have recorded."""
        return sum(p.stat().st_size for p in (self.folder / f"{name}-record").glob("*"))

    def result(self, name: str) -> "Result":
        """What a finished run left: digests of its files, and what it read at each step."""
        last = list(Checkpoints(self.folder / name / "checkpoints", 1).names().values())[-1]
        weights = self.folder / name / "weights"
        digests = {f"{last.name}/{p.name}": sha256(p) for p in last.iterdir()}
        digests["weights"] = exported(weights / "model.safetensors")
        steps: dict[tuple[str, int], list[object]] = {}
        for path in sorted((self.folder / f"{name}-record").glob("*")):
            for line in re.findall(rb"^\{[^\n]*\}$", path.read_bytes(), re.M):
                if line.count(b"{") > 1:
                    continue  # half a line of a killed life, and a whole one
                value = json.loads(line)
                seen = [value[key] for key in ("ids", "nll", "kl", "grad_norm", "world")]
                known = steps.setdefault((path.name, value["step"]), seen)
                self.steps_again += known is not seen
                assert known == seen, f"step {value['step']} was another one in another life"
        return Result(digests, steps)

    def log(self, name: str) -> str:
        """The end of what the processes said."""
        return (self.folder / f"{name}.log").read_text()[-3000:]


@dataclass
class Result:
    """Digests of files, and what was read at each (process, step)."""

    digests: dict[str, str]
    steps: dict[tuple[str, int], list[object]]


def run_chaos(chaos: Chaos, kills: int) -> None:
    """Kill until there were `kills` kills, and compare each run that came to its end."""
    whole = chaos.undisturbed()
    while chaos.kills.total() < kills:
        name = f"killed-{chaos.rounds}"
        while chaos.kills.total() < kills and not chaos.one_life(name):
            pass
        last = chaos.start(name)
        assert ended(last) == [0] * chaos.processes, chaos.log(name)
        found = chaos.result(name)
        assert found.digests == whole.digests, differing(found.digests, whole.digests)
        assert found.steps.keys() == whole.steps.keys(), "steps are missing"
        assert found.steps == whole.steps, "ids or losses differ"
        assert not list((chaos.folder / name).rglob(".tmp-*"))
        chaos.rounds += 1
        shutil.rmtree(chaos.folder / name)


def differing(found: dict[str, str], whole: dict[str, str]) -> str:
    """The files that aren't equal."""
    return ", ".join(sorted(n for n in found | whole if found.get(n) != whole.get(n))) + " differ"


def exported(path: Path) -> str:
    """SHA-256 of a safetensors file without its metadata: the recipe's threads stand there."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    names = json.loads(data[8:start])
    names.pop("__metadata__")
    return hashlib.sha256(json.dumps(names).encode() + data[start:]).hexdigest()


def any_ended(life: list[int]) -> bool:
    """Whether one of the processes is over; it isn't reaped."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return any(os.waitid(os.P_PID, pid, flags) is not None for pid in life)


def ended(life: list[int]) -> list[int]:
    """Wait for processes; their exit codes, negative for signals."""
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in life]


def command_line(text: str | None, option: str, count: int, processes: int) -> argparse.Namespace:
    """The arguments of a script of trials.

    Args:
        text: the script's own.
        option: that says how many trials.
        count: of them, unless it's given.
        processes: of the run, unless they're given.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument(option, type=int, default=count)
    parser.add_argument("--processes", type=int, default=processes)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_intermixed_args()


def main() -> None:
    """The command line."""
    given = command_line(__doc__, "--kills", 20, 1)
    with Chaos.asked(given) as chaos:
        run_chaos(chaos, given.kills)
    print(
        f"{chaos.kills.total()} kills ({chaos.ways(' while ')}) of {chaos.processes} processes in {chaos.rounds} runs, "
        f"{chaos.steps_again} steps done again: 0 lost, 0 other; all SHA-256 equal"
    )


if __name__ == "__main__":
    main()
