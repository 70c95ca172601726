"""Several machines, as network namespaces of this one: what is lost is named, and the run goes on.

The first runs where it can; the others, of minutes, with DVAE_TEST_HOSTS=1.
"""

import json
import os
import signal
import sys
import time

import pytest

from dvae.checkpoint import Checkpoints
from tests.processes import hindered

from .jobs import LAUNCH, Job, agree, agree_in_weights, curve, undisturbed, until
from .machines import network, why_not

pytestmark = pytest.mark.slow
by_hand = pytest.mark.skipif(
    "DVAE_TEST_HOSTS" not in os.environ, reason="takes minutes: set DVAE_TEST_HOSTS=1"
)
ENDLESS = ("train.steps=1000000", "optim.schedule=constant")


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
    with hindered(machines[slow].signal):
        job.end(*others)
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
@three
def test_the_script_for_several_machines_trains_on_three(recipe, machines):
    def script(rank):
        return [str(LAUNCH / "multi_node.sh"), str(rank), "3", machines[0].address, "1"]

    job = Job(machines, recipe, "train.steps=12", script=script)
    assert job.end(0, 1, 2) == [0, 0, 0], job.said(0)
    assert "done: 12 steps" in job.said(0)
    undisturbed(recipe, "train.steps=12", "eval.every=1000000", "train.save_every=5")
    agree_in_weights(job.folder / "runs", "tiny", "alone")


@by_hand
def test_the_script_for_machines_that_come_and_go_loses_one(recipe, machines):
    def script(_):
        return [str(LAUNCH / "elastic.sh"), "1", "2", machines[0].address, "1"]

    job = Job(machines, recipe, "train.steps=60", script=script)
    folder = job.folder / "runs" / "tiny" / "checkpoints"
    until(lambda: Checkpoints(folder, 1).names() or job.has_ended(), job)
    machines[1].signal(signal.SIGKILL)
    assert job.end(0) == [0], job.said(0)
    assert f"rank 1 on {machines[1].name}" in job.said(0)
    undisturbed(recipe, "train.steps=60", "eval.every=1000000", "train.save_every=5")
    agree_in_weights(job.folder / "runs", "tiny", "alone")


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
