"""Rows 37, 38, 56, 57, 59 and 60: a training in surroundings that lack this and that."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import RECIPE, ROOT

SECONDS = 300  # of a machine that does other things, too
STRANGE = "Žluťoučký 犬"
# A clock that is right, an hour slow, or a year fast, from one look to the next.
_CLOCK = """
import itertools, time
right, jumps = time.time, itertools.cycle((0, -3600, 365 * 24 * 3600))
time.time = lambda: right() + next(jumps)
"""
# Small shared memory where mounts are allowed, few descriptors, and nothing at the standard input.
_POOR = """
mount -t tmpfs -o size=64k tmpfs /dev/shm 2>/dev/null && echo small
ulimit -n 160
exec "$@" <&-
"""


def weights_of(folder):
    return load_file(folder / "weights" / "model.safetensors")


@pytest.mark.slow
def test_a_run_in_poor_surroundings_ends_as_one_in_good_ones(shards, recipe, train, tmp_path):
    """No HOME, no terminal, no input, the C locale, odd names, few files, little /dev/shm, a bad clock."""
    odd = tmp_path / STRANGE
    shutil.copytree(shards, odd / "犬 shards")
    there = odd / f"{STRANGE}.toml"
    there.write_text(RECIPE.format(shards=odd / "犬 shards", runs=odd / "běhy"), encoding="utf-8")
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(_CLOCK)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(tmp_path / "clock"),
        "LC_ALL": "C",
        "LANG": "C",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    command = ["sh", "-c", _POOR, "sh", sys.executable, "-m", "dvae.train", str(there)]
    may_mount = os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"]).returncode == 0
    if may_mount:
        command = ["unshare", "-m", *command]
    options = ["train.steps=6", "optim.schedule=constant"]
    done = subprocess.run(
        [*command, *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert STRANGE in done.stdout.decode()
    assert done.stdout.startswith(b"small\n") == may_mount
    run = odd / "běhy" / STRANGE
    longer = ["train.steps=9", "optim.schedule=constant"]
    assert train(there, *longer) == 0  # the clock is a year slow now
    assert train(recipe, *longer) == 0
    found, expected = weights_of(run), weights_of(recipe.parent / "runs" / "tiny")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    seen = EventAccumulator(str(run / "tensorboard"), {"scalars": 0})
    seen.Reload()
    events = seen.Scalars("train/loss")
    assert [event.step for event in events] == list(range(1, 10))
    times = [event.wall_time for event in events]
    assert max(times) - min(times) > 300 * 24 * 3600  # seconds: the clock did jump


def test_grids_that_can_not_be_drawn_are_told_and_cost_nothing(recipe, train, monkeypatch, capsys):
    import dvae.monitor

    def broken(*arguments):
        raise RuntimeError("no such colour")

    monkeypatch.setattr(dvae.monitor, "grid", broken)
    assert train(recipe) == 0
    assert capsys.readouterr().out.count("no grids (RuntimeError: no such colour): training") == 2
    monkeypatch.undo()
    assert train(recipe, "run.name=drawn") == 0
    found, drawn = (weights_of(recipe.parent / "runs" / name) for name in ("tiny", "drawn"))
    assert all(torch.equal(found[name], tensor) for name, tensor in drawn.items())
