"""A run on several machines, and what it recorded beside an undisturbed one."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dvae.checkpoint import Checkpoints
from dvae.files import damage
from tests.conftest import ROOT

LAUNCH = ROOT / "launch"
LIMIT = 180.0  # seconds that anything may take
TIMEOUT = 15  # seconds that the processes wait for each other
CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


class Job:
    """A run on some machines, a process on each.

    Args:
        machines: the first has rank 0.
        recipe: of the run, overridden.
        launcher: `accelerate launch`, or what is given instead, without the machine's place.
        script: of launch/, and its arguments before the recipe, for each machine; its steps aren't recorded.
    """

    def __init__(self, machines, recipe, *overrides, restarts=0, launcher=None, script=None):
        self.machines, self.folder = machines, recipe.parent
        self.record = self.folder / "record"
        self.record.mkdir(exist_ok=True)
        command = [str(ROOT / "tests" / "recorded_train.py"), str(recipe)]
        command += ["eval.every=1000000", "train.save_every=5", "train.micro_batch_size=2"]
        command += ["train.global_batch_size=12", f"train.peer_timeout={TIMEOUT}", *overrides]
        self.launchers = []
        for rank, machine in enumerate(machines):
            where = launcher or accelerate(rank, machines, restarts)
            whole = ["bash", *script(rank), *command[1:]] if script else [*where, *command]
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            environment = {**CPU, "DVAE_RECORD": str(self.record), "PATH": path}
            process = machine.start(whole, self.log(rank), environment)
            self.launchers.append(process)

    def log(self, rank):
        return self.folder / f"log-{rank}"

    def said(self, rank):
        return self.log(rank).read_text().replace("\r", "\n")

    def steps(self):
        """How many steps the first process has recorded."""
        path = self.record / "rank-0.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def reach(self, steps):
        until(lambda: self.steps() >= steps or self.has_ended(), self)
        assert not self.has_ended(), self.said(0)

    def has_ended(self):
        return any(launcher.poll() is not None for launcher in self.launchers)

    def trainers(self, rank):
        """The processes that a launcher has started."""
        pids = self.machines[rank].processes()
        return [pid for pid in pids if pid != self.launchers[rank].pid]

    def end(self, *ranks):
        """Wait for launchers, and see that they left nobody behind; their exit codes."""
        until(lambda: all(self.launchers[rank].poll() is not None for rank in ranks), self)
        assert [self.machines[rank].processes() for rank in ranks] == [[]] * len(ranks)
        return [self.launchers[rank].returncode for rank in ranks]

    def verdict(self, rank):
        """What a process said of another one when it ended with exit code 7, the last time."""
        until(lambda: re.search(r"exitcode: 7\)", self.said(rank)), self)
        return re.findall(r"^error: (.*)$", self.said(rank), re.M)[-1]

    def checkpoint(self, name="tiny"):
        """The step of the last one; all are whole."""
        found = Checkpoints(self.folder / "runs" / name / "checkpoints", 1).names()
        assert all(damage(path) is None for path in found.values())
        return max(found)


def accelerate(rank, machines, restarts):
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(LAUNCH / "multi_node.yaml")]
    command += ["--num_machines", str(len(machines)), "--num_processes", str(len(machines))]
    command += ["--machine_rank", str(rank), "--main_process_ip", machines[0].address]
    return [*command, "--main_process_port", "29500", "--max_restarts", str(restarts)]


def until(reached, job):
    end = time.monotonic() + LIMIT
    while not reached():
        assert time.monotonic() < end, "".join(map(job.said, range(len(job.machines))))
        time.sleep(0.05)


def curve(record):
    """Step by step: the global batch's ids and the loss; what was done again was done alike."""
    parts = {}  # what each rank wrote down of a step in a world of some size, in each of its lives
    for rank, path in enumerate(sorted(record.glob("rank-*.jsonl"))):
        for line in map(json.loads, path.read_text().splitlines()):
            known = parts.setdefault((line["step"], line["world"]), {}).setdefault(rank, line)
            assert line == known
    steps = {}
    for (step, world), lines in parts.items():
        if len(lines) == world:  # not cut short
            ids = [sample for _, line in sorted(lines.items()) for sample in line["ids"]]
            steps.setdefault(step, []).append((ids, (lines[0]["nll"], lines[0]["kl"])))
    for worlds in steps.values():
        agree(worlds, worlds[:1] * len(worlds))
    return [steps[step][0] for step in range(len(steps))]


def undisturbed(recipe, *overrides):
    """The curve of one process."""
    record = recipe.parent / "alone"
    record.mkdir()
    command = [sys.executable, str(ROOT / "tests" / "recorded_train.py"), str(recipe)]
    command += ["train.global_batch_size=12", "train.micro_batch_size=2", "run.name=alone"]
    environment = {**os.environ, **CPU, "DVAE_RECORD": str(record)}
    subprocess.run(
        [*command, *overrides], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    return curve(record)


def agree(found, whole):
    assert [ids for ids, _ in found] == [ids for ids, _ in whole]
    for (_, a), (_, b) in zip(found, whole, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def agree_in_weights(runs, *names):
    """To what another order of adding up gives."""
    a, b = (load_file(runs / name / "weights" / "model.safetensors") for name in names)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert (tensor - b[name]).abs().max() <= 2e-3 * tensor.abs().max().clamp(min=1e-3), name
