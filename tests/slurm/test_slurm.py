"""launch/slurm.sbatch under a real Slurm: two nodes, a preemption, a failure.

Runs where `bash tests/slurm/up.sh FOLDER` has made a cluster of this machine (it installs packages and
writes in /etc, which a test shouldn't), and is skipped elsewhere.
"""

import os
import shutil
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
LONG = 180.0  # seconds that a job may take to come somewhere


def has_cluster():
    if not shutil.which("sinfo"):
        return False
    idle = subprocess.run(["sinfo", "-h", "-N", "-t", "idle"], capture_output=True, text=True)
    return idle.returncode == 0 and len(idle.stdout.splitlines()) == 2


@pytest.fixture
def submit(recipe, tmp_path):
    """Submit the shipped script on two nodes; returns the job's number. Cancelled at the end."""
    if not has_cluster():
        pytest.skip("no Slurm of two idle nodes here: bash tests/slurm/up.sh FOLDER makes one")
    folder = os.path.dirname(sys.executable)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "GLOO_SOCKET_IFNAME": "lo",
        "LOGS": str(tmp_path),
    }
    jobs = []

    def send(*overrides):
        command = ["sbatch", "--parsable", "-N", "2", f"--output={tmp_path}/job.out"]
        command += ["launch/slurm.sbatch", str(recipe), "run.name=job", *overrides]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        jobs.append(done.stdout.strip())
        return jobs[-1]

    yield send
    for job in jobs:
        subprocess.run(["scancel", job], check=False)


def shown(job):
    """A job as `scontrol` tells it."""
    command = ["scontrol", "show", "job", job, "--oneliner"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(pair.split("=", 1) for pair in text.split() if "=" in pair)


def until(reached):
    end = time.monotonic() + LONG
    while not reached():
        assert time.monotonic() < end, "the job didn't come so far"
        time.sleep(0.2)


def test_a_preempted_job_saves_goes_back_to_the_queue_and_finishes(submit, tmp_path):
    job = submit("train.steps=200", "train.save_every=200", "eval.every=200")
    log = tmp_path / f"dvae-{job}-0.log"
    until(lambda: log.exists() and "bits/dim" in log.read_text())
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=True)
    until(lambda: shown(job)["JobState"] == "PENDING")
    checkpoints = tmp_path / "runs" / "job" / "checkpoints"
    [saved] = [int(path.name[-8:]) for path in checkpoints.glob("step-*")]
    assert 0 < saved < 200
    assert f"stopped after step {saved}" in log.read_text()
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
    until(lambda: shown(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"))
    assert shown(job)["JobState"] == "COMPLETED"
    assert shown(job)["Restarts"] == "1"
    assert "done: 200 steps" in log.read_text()
    assert load_file(tmp_path / "runs" / "job" / "weights" / "model.safetensors")


def test_a_job_that_failed_does_not_look_completed(submit, tmp_path):
    job = submit("train.steps=0")
    until(lambda: shown(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"))
    assert shown(job)["JobState"] == "FAILED"
    told = "".join(log.read_text() for log in tmp_path.glob(f"dvae-{job}-?.log"))
    assert "train.steps=0" in told  # by the node that came to it first; the other was ended
