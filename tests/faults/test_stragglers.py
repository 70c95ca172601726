"""Row 42: a process of a launched run is lost, in four ways; `stragglers.py` does so often."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TRIALS = os.environ.get("DVAE_TEST_STRAGGLERS", "")  # 30 by hand, of half a minute each


@pytest.mark.slow
@pytest.mark.skipif(not TRIALS, reason="minutes: DVAE_TEST_STRAGGLERS names the trials")
def test_whoever_is_lost_is_named_and_the_others_end(recipe, record_property):
    options = ["train.steps=1000000", "optim.schedule=constant", "eval.every=1000000"]
    command = [sys.executable, "tests/faults/stragglers.py", str(recipe), *options]
    command += ["train.save_every=5", "train.peer_timeout=10", "--trials", TRIALS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(
        rf"^{TRIALS} of 2 processes lost .* exit code 7, nobody left", done.stdout, re.M
    )
    record_property("processes killed, stopped, hanging or slow", TRIALS)
