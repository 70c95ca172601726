"""Row 41: a run that was launched is asked to stop; `stops.py` does so in all ways, often."""

import os
import re
import subprocess
import sys
from random import Random

import pytest

from tests.conftest import ROOT

from .stops import Stops

TRIALS = os.environ.get("DVAE_TEST_STOPS", "")  # 100 by hand, of ten seconds or more each


@pytest.mark.slow
def test_a_launcher_that_is_killed_leaves_nobody_and_no_step_is_lost(
    recipe, tmp_path, record_property
):
    overrides = ["train.steps=100000", "optim.schedule=constant", "eval.every=100000"]
    stops = Stops(recipe, overrides, 2, tmp_path, Random(0))
    assert not stops.stop_one("stopped", ("SIGKILL", "launcher"))
    assert not stops.early
    assert stops.check_whole("stopped") == stops.last_step("stopped") > 0
    record_property("SIGKILLs of launchers", 1)


@pytest.mark.slow
@pytest.mark.skipif(not TRIALS, reason="minutes: DVAE_TEST_STOPS names the trials")
def test_runs_that_are_stopped_in_all_ways_lose_no_step(recipe, record_property):
    command = [sys.executable, "tests/faults/stops.py", str(recipe), "--trials", TRIALS]
    command += ["train.steps=400", "eval.every=200", "train.save_every=100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 steps lost, nobody left" in done.stdout
    for count, way in re.findall(r"(\d+) (SIG\w+) to \w+", done.stdout):
        record_property(f"{way}s", count)
