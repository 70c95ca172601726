"""Rows 39 and 40: a real run, killed at random and inside saves, ends as if it had not been."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

KILLS = os.environ.get("DVAE_TEST_KILLS", "6")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (1, ["train.keep=1"]),
        (2, ["train.keep=2"]),
        (1, ["train.keep=3", "train.async_save=false"]),
    ],
    ids=["one", "two", "one, saving at once"],
)
def test_a_run_that_is_killed_again_and_again_loses_nothing(
    recipe, processes, options, record_property
):
    command = [sys.executable, "tests/faults/chaos.py", str(recipe), *options]
    command += ["train.steps=40", "train.save_every=2", "eval.every=8", "--kills", KILLS]
    done = subprocess.run(
        [*command, "--processes", str(processes)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"{KILLS} kills" in done.stdout
    assert "0 lost, 0 other; all SHA-256 equal" in done.stdout
    record_property(f"SIGKILLs of runs of {processes}", KILLS)
    inside = sum(map(int, re.findall(r"(\d+) while saving", done.stdout)))
    record_property("of them inside saves", inside)
