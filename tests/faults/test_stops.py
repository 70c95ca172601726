"""Row 41: a run that was launched is asked to stop; `stops.py` does so in all ways, often."""

from random import Random

import pytest

from .stops import Stops


@pytest.mark.slow
def test_a_launcher_that_is_killed_leaves_nobody_and_no_step_is_lost(recipe, tmp_path):
    overrides = ["train.steps=100000", "optim.schedule=constant", "eval.every=100000"]
    stops = Stops(recipe, overrides, 2, tmp_path, Random(0))
    assert not stops.stop_one("stopped", ("SIGKILL", "launcher"))
    assert not stops.early
    assert stops.check_whole("stopped") == stops.last_step("stopped") > 0
