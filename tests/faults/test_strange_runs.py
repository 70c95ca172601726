"""Runs, checkpoints, weights and run names of strangers: see `test_strangers.py`, which counts them."""

import json
import os
import shutil
from pathlib import Path

import pytest

from dvae.cli import main as dvae
from dvae.data.manifest import find_split
from dvae.data.reader import Reader
from dvae.train import main as train_main
from tests.conftest import RECIPE
from tests.faults.shard_files import flip
from tests.faults.strangers import (
    HUGE_HEADER,
    NESTED,
    one_error,
    pickled,
    put,
    vouching_for,
)


def resumed(run):
    return train_main([str(run.parents[1] / "tiny.toml"), f"run.dir={run.parent}"])


def sampled(run, *more):
    return dvae(["sample", str(run), "--count=2", "--out=a.png", *more])


def listed(run):
    return dvae(["checkpoints", str(run)])


def everywhere(run, name, data):
    for folder in (run / "checkpoints").glob("step-*"):
        put(folder, name, data)


STEP = Path("checkpoints") / "step-00000006"
RUNS = {  # name -> what is done to a run, the way in, the exit code
    "pickled weights": (lambda r, p: everywhere(r, "model.safetensors", p), resumed, 4),
    "pickled averages": (lambda r, p: everywhere(r, "ema.safetensors", p), resumed, 4),
    "a pickled optimizer": (lambda r, p: everywhere(r, "optimizer.safetensors", p), resumed, 4),
    "a pickled state": (lambda r, p: everywhere(r, "state.json", p), resumed, 4),
    "a pickled manifest": (lambda r, p: (r / STEP / "manifest.json").write_bytes(p), listed, 4),
    "pickles under other names": (
        lambda r, p: [
            everywhere(r, name, p)
            for name in ("custom_checkpoint_0.pkl", "random_states_0.pkl", ".metadata", "rng.pth")
        ],
        resumed,
        0,
    ),
    "pickled exported weights": (
        lambda r, p: put(r / "weights", "model.safetensors", p),
        sampled,
        4,
    ),
    "a pickled configuration": (lambda r, p: put(r / "weights", "config.json", p), sampled, 4),
    "a pickled prior": (lambda r, p: put(r / "weights", "prior.safetensors", p), sampled, 4),
    "a pickled description": (lambda r, p: put(r / "weights", "prior.json", p), sampled, 4),
    "weights of torch.save": (
        lambda r, p: (
            [(r / "weights" / n).unlink() for n in ("model.safetensors", "manifest.json")]
            and put(r / "weights", "pytorch_model.bin", p)
        ),
        sampled,
        4,
    ),
    "a pickled recipe": (lambda r, p: (r / "config.toml").write_bytes(p), resumed, 2),
    "10^5 brackets of state": (lambda r, p: everywhere(r, "state.json", NESTED), resumed, 4),
    "10^5 brackets of weights": (
        lambda r, p: put(r / "weights", "config.json", NESTED),
        sampled,
        4,
    ),
    "a header of 2^62 bytes": (
        lambda r, p: everywhere(r, "model.safetensors", HUGE_HEADER),
        resumed,
        4,
    ),
    "a manifest that names a file outside": (
        lambda r, p: vouching_for(r / STEP, "../../../../../outside/secret.jpg"),
        listed,
        4,
    ),
}


@pytest.mark.parametrize("form", RUNS)
def test_a_run_of_a_stranger_s_runs_nothing(world, a_run, train, shards, capsys, form):
    run = shutil.copytree(a_run, world.inside / "runs" / "tiny")
    shutil.copy(a_run.parents[1] / "tiny.toml", world.inside)
    spoil, enter, expected = RUNS[form]
    spoil(run, pickled(world.canary))
    capsys.readouterr()
    code = enter(run)
    if expected and enter is not listed:
        one_error(capsys, code, expected)
    assert code == expected


LINKS = {  # what a stranger's folder of a run may link to a file outside -> the exit code
    ".lock": 2,
    "bad_samples.jsonl": 2,
    "config.toml": 0,  # replaced
    "checkpoints/step-00000009": 0,  # none
    "weights": 0,  # replaced
}


@pytest.mark.parametrize("name", LINKS)
def test_a_link_in_a_run_is_not_written_through(world, train, shards, capsys, name):
    shutil.copytree(shards, "data")
    place = Reader(find_split("data", "train")).place(0)
    flip(Path("data") / place.shard, place.offset + 77)  # a bad sample is written down
    link = Path("runs") / "tiny" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(world.secret)
    Path("tiny.toml").write_text(RECIPE.format(shards="data", runs="runs"))
    code = train_main(["tiny.toml", "data.max_bad=0.5"])
    told = capsys.readouterr().err
    assert code == LINKS[name], told
    assert ("symbolic links" in told) == (code == 2)


WAYS = ("an override", "a recipe", "a recipe's file")
NAMES = ("../x", "..", ".", "/abs", "a/b", "../../outside/x", ".hidden", "x/", "a/../b", "./x")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_a_run_s_name_that_climbs_is_refused(world, shards, train, capsys, name, way):
    text = RECIPE.format(shards=shards, runs="runs")
    path, overrides = Path("tiny.toml"), []
    if way == "an override":
        overrides = [f"run.name={name}"]
    elif way == "a recipe":
        text += f"name = {json.dumps(name)}\n"
    else:
        path = Path("..toml" if name in ("..", ".") else ".hidden.toml")
    path.write_text(text)
    one_error(capsys, train_main([str(path), *overrides]))
    assert os.listdir() == [path.name]
