"""Several machines, as network namespaces of this one: what is lost is named, and the run goes on.

The first runs where it can; the others, of minutes, with DVAE_TEST_HOSTS=1.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from dvae.checkpoint import Checkpoints
from dvae.files import damage
from tests.conftest import ROOT

from .machines import network, why_not

pytestmark = pytest.mark.slow
by_hand = pytest.mark.skipif(
    "DVAE_TEST_HOSTS" not in os.environ, reason="takes minutes: set DVAE_TEST_HOSTS=1"
)
LIMIT = 180.0  # seconds that anything may take
TIMEOUT = 15  # seconds that the processes wait for each other
CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
ENDLESS = ("train.steps=1000000", "optim.schedule=constant")


class Job:
    """A run on some machines, a process on each.

    Args:
        machines: the first has rank 0.
        recipe: of the run, overridden.
        launcher: `accelerate launch`, or what is given instead, without the machine's place.
    """

    def __init__(self, machines, recipe, *overrides, restarts=0, launcher=None):
        self.machines, self.folder = machines, recipe.parent
        self.record = self.folder / "record"
        self.record.mkdir(exist_ok=True)
        command = [str(ROOT / "tests" / "recorded_train.py"), str(recipe)]
        command += ["eval.every=1000000", "train.save_every=5", "train.micro_batch_size=2"]
        command += ["train.global_batch_size=12", f"train.peer_timeout={TIMEOUT}", *overrides]
        self.launchers = []
        for rank, machine in enumerate(machines):
            where = launcher or accelerate(rank, machines, restarts)
            environment = {**CPU, "DVAE_RECORD": str(self.record)}
            process = machine.start([*where, *command], self.log(rank), environment)
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
    command += ["--config_file", str(ROOT / "launch" / "multi_node.yaml")]
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


@pytest.fixture
def machines(request):
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with network(getattr(request, "param", 2)) as found:
        yield found


three = pytest.mark.parametrize("machines", [3], indirect=True)


def test_what_is_lost_is_named_and_the_run_goes_on_by_itself(recipe, machines):
    """A process is killed, both launchers start again; then the cable is cut, and nobody is left."""
    job = Job(machines, recipe, *ENDLESS, restarts=1)
    job.reach(12)
    [trainer] = job.trainers(1)
    os.kill(trainer, signal.SIGKILL)
    until(lambda: "error: " in job.said(0), job)
    assert job.verdict(0).startswith(f"rank 1 on {machines[1].name} was last heard of")
    job.reach(job.steps() + 12)
    machines[1].cut()
    assert job.end(0, 1) == [1, 1]
    assert job.verdict(0).startswith(f"rank 1 on {machines[1].name} was last heard of")
    assert job.verdict(1).startswith(f"rank 0 on {machines[0].name} is out of reach")
    done = job.checkpoint()
    assert done >= 20
    whole = undisturbed(recipe, f"train.steps={done}", "optim.schedule=constant")
    agree(curve(job.record)[:done], whole)


@by_hand
def test_a_run_that_lost_a_process_comes_to_the_same_end(recipe, machines):
    job = Job(machines, recipe, "train.steps=30", restarts=1)
    job.reach(12)
    [trainer] = job.trainers(1)
    os.kill(trainer, signal.SIGKILL)
    assert job.end(0, 1) == [0, 0], job.said(0) + job.said(1)
    assert f"error: rank 1 on {machines[1].name} was last heard of" in job.said(0)
    assert job.checkpoint() == 30
    agree(curve(job.record), undisturbed(recipe, "train.steps=30"))


@by_hand
@three
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("lost", [0, 2], ids=["the first", "the last"])
def test_a_lost_machine_is_named_by_both_others(recipe, machines, number, lost):
    job = Job(machines, recipe, *ENDLESS)
    job.reach(12)
    others = [rank for rank in range(3) if rank != lost]
    began = time.monotonic()
    machines[lost].signal(number)
    assert job.end(*others) == [1, 1]
    print(f"ended after {time.monotonic() - began:.1f} s")
    for rank in others:
        print(job.verdict(rank))
        assert job.verdict(rank).startswith(f"rank {lost} on {machines[lost].name} ")
    assert job.checkpoint() >= 10


@by_hand
@three
def test_a_cable_cut_amid_three_machines_is_named_by_the_two_that_see_each_other(recipe, machines):
    job = Job(machines, recipe, *ENDLESS)
    job.reach(12)
    began = time.monotonic()
    machines[2].cut()
    assert job.end(0, 1, 2) == [1, 1, 1]
    print(f"ended after {time.monotonic() - began:.1f} s")
    for rank in (0, 1):
        assert job.verdict(rank).startswith(f"rank 2 on {machines[2].name} was last heard of")
    assert job.verdict(2).startswith(f"rank 0 on {machines[0].name} is out of reach")


@by_hand
@three
@pytest.mark.parametrize("slow", [0, 1], ids=["the first", "another"])
def test_a_machine_that_is_ten_times_slower_is_named(recipe, machines, slow):
    job = Job(machines, recipe, *ENDLESS)
    job.reach(12)
    others = [rank for rank in range(3) if rank != slow]
    began = time.monotonic()
    done = threading.Event()

    def hinder():
        while not done.is_set():
            machines[slow].signal(signal.SIGSTOP)
            done.wait(0.36)
            machines[slow].signal(signal.SIGCONT)
            done.wait(0.04)

    thread = threading.Thread(target=hinder)
    thread.start()
    try:
        job.end(*others)
    finally:
        done.set()
        thread.join()
    print(f"ended after {time.monotonic() - began:.1f} s")
    for rank in others:
        print(job.verdict(rank))
        assert job.verdict(rank).startswith(f"rank {slow} on {machines[slow].name} has been slow")


@by_hand
@three
def test_three_machines_train_and_go_on_from_what_they_saved(recipe, machines):
    job = Job(machines, recipe, "train.steps=12", "optim.schedule=constant")
    assert job.end(0, 1, 2) == [0, 0, 0], job.said(0)
    job = Job(machines, recipe, "train.steps=24", "optim.schedule=constant")
    assert job.end(0, 1, 2) == [0, 0, 0], job.said(0)
    agree(curve(job.record), undisturbed(recipe, "train.steps=24", "optim.schedule=constant"))


@by_hand
def test_an_elastic_run_goes_on_with_the_machine_that_is_left(recipe, machines):
    """torchrun, of PyTorch: from one to two machines; the other's launcher is killed, too."""
    environment = ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"]
    launcher = [*environment, sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2"]
    launcher += ["--nproc_per_node", "1", "--rdzv_backend", "c10d", "--rdzv_id", "tiny"]
    launcher += ["--rdzv_endpoint", f"{machines[0].address}:29400", "--max_restarts", "3"]
    launcher += ["--rdzv_conf", "last_call_timeout=5,join_timeout=60"]
    job = Job(machines, recipe, "train.steps=40", launcher=launcher)
    job.reach(12)
    machines[1].signal(signal.SIGKILL)
    assert job.end(0) == [0], job.said(0)
    worlds = [
        json.loads(line)["world"] for line in (job.record / "rank-0.jsonl").read_text().splitlines()
    ]
    assert sorted(set(worlds)) == [1, 2]
    assert f"rank 1 on {machines[1].name}" in job.said(0)
    agree(curve(job.record), undisturbed(recipe, "train.steps=40"))
