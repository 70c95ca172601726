"""Real training processes at little cost: forked by a server that has imported everything once."""

import contextlib
import json
import os
import runpy
import sys
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tests.processes import free_port

RECORDED = Path(__file__).parents[1] / "recorded_train.py"
LIMIT = 300  # seconds that a world may take
_forks = get_context("forkserver")
_forks.set_forkserver_preload(["dvae.train", "tests.engines_on_cpu", "torch._dynamo"])


@dataclass(frozen=True)
class Ended:
    """How a world ended."""

    codes: list[int]  # of each process, negative for signals
    out: str  # of all processes
    err: str


def train_apart(
    record: Path,
    recipe: Path,
    *overrides: str,
    processes: int = 1,
    at_step: dict[int, str] | None = None,
    at_start: str = "",
) -> Ended:
    """Train in processes of their own.

    Args:
        record: a new folder for what `recorded_train` writes.
        recipe: with its overrides, of the run.
        overrides: key=value.
        processes: of the world.
        at_step: Python for `recorded_train` to run before a step.
        at_start: Python to run at the beginning, before there is a thread.
    """
    record.mkdir()
    world = {"DVAE_RECORD": str(record), "DVAE_AT_STEP": json.dumps(at_step or {})}
    if processes > 1:
        world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        world["WORLD_SIZE"] = str(processes)
    started = []
    for rank in range(processes):
        mine = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        arguments = (world | mine, [str(RECORDED), str(recipe), *overrides], record, at_start)
        started.append(_forks.Process(target=_train, args=arguments))
        started[-1].start()
    for process in started:
        process.join(LIMIT)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.join()
    codes = [process.exitcode or 0 for process in started]
    return Ended(codes, (record / "out").read_text(), (record / "err").read_text())


def _train(environment: dict[str, str], argv: list[str], record: Path, at_start: str) -> None:
    """In the child: what `python tests/recorded_train.py …` would do."""
    for number, name in ((1, "out"), (2, "err")):
        with (record / name).open("ab", buffering=0) as file:
            os.dup2(file.fileno(), number)
    os.environ |= environment
    sys.argv[:] = argv
    exec(at_start, {})
    runpy.run_path(argv[0], run_name="__main__")
