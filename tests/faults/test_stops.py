"""Row 41: a run that was launched is asked to stop; `stops.py` does so in all ways, often."""

import os
import re
import subprocess
import sys
from random import Random

import pytest

from tests.conftest import ROOT

from .stops import WAYS, Stops

TRIALS = os.environ.get("DVAE_TEST_STOPS", "")  # 100 by hand, of ten seconds or more each


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_in_every_way_leaves_nobody_and_loses_no_step(
    recipe, tmp_path, record_property
):
    overrides = ["train.steps=100000", "optim.schedule=constant", "eval.every=100000"]
    stops = Stops(recipe, overrides, 2, tmp_path, Random(0))
    with stops.nobody_left("stopped"):
        for way in WAYS:
            assert not stops.stop_one("stopped", way)
    assert stops.check_whole("stopped") > 0
    record_property("signals", len(WAYS))


@pytest.mark.slow
@pytest.mark.skipif(not TRIALS, reason="minutes: DVAE_TEST_STOPS names the trials")
def test_runs_that_are_stopped_in_all_ways_lose_no_step(recipe, record_property):
    command = [sys.executable, "tests/faults/stops.py", str(recipe), "--trials", TRIALS]
    command += ["train.steps=400", "eval.every=200", "train.save_every=100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 steps lost, nobody left" in done.stdout
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGKILL"):
        count = sum(map(int, re.findall(rf"(\d+) {name} to \w+", done.stdout)))
        record_property(f"{name}s", count)
