"""The data that a run goes on with: the same wherever they lie, or told what changed."""

import json
import shutil
from dataclasses import asdict

import pytest

from dvae.checkpoint import Checkpoints, Standing, State
from dvae.files import write_manifest
from dvae.guard import USUAL, note_good
from dvae.metrics import Evaluation
from dvae.resume import DIGITS
from tests.fault_server import serving
from tests.test_train import equal, events, state, tensors

MORE = ["optim.schedule=constant", "data.window=4"]


def change_split(folder, change):
    """Let `change` alter the shards that a manifest names, by split."""
    value = json.loads((folder / "manifest.json").read_text())
    change(value["splits"])
    (folder / "manifest.json").write_text(json.dumps(value))


def change_state(run, step, **values):
    """Change the counters of a checkpoint, as another version would have left them."""
    path = run / "checkpoints" / f"step-{step:08d}"
    changed = state(run, step) | values
    changed = {name: value for name, value in changed.items() if value is not None}
    (path / "state.json").write_text(json.dumps(changed))
    write_manifest(path)


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def test_the_same_data_elsewhere_or_behind_a_url_go_on_to_the_bit(
    recipe, train, copy, tmp_path, capsys
):
    runs = recipe.parent / "runs"
    assert train(recipe, *MORE, "run.name=whole") == 0
    assert train(recipe, *MORE, "train.steps=2", f"data.train={copy}") == 0
    moved = copy.rename(tmp_path / "moved")
    there = [f"data.train={moved}", f"data.val={moved}"]
    assert train(recipe, *MORE, "train.steps=4", *there) == 0
    with serving(moved) as server:
        assert train(recipe, *MORE, f"data.train={server.url}/data") == 0
    assert equal(tensors(runs / "tiny", 6), tensors(runs / "whole", 6))
    change_split(moved, lambda splits: splits["train"].pop())
    was = (runs / "tiny" / "config.toml").read_text()
    assert train(recipe, *MORE, "train.steps=8", *there) == 3
    assert "the data of this run changed: 1 shards removed" in capsys.readouterr().err
    assert (runs / "tiny" / "config.toml").read_text() == was


def test_other_validation_data_are_told_and_measured_on_anew_where_accepted(
    recipe, train, copy, capsys
):
    run, here = recipe.parent / "runs" / "tiny", [f"data.val={copy}", *MORE]
    assert train(recipe, *here, "train.steps=3") == 0
    change_state(run, 3, best_loss=-1e9)  # no later one can be better
    first = json.loads((copy / "manifest.json").read_text())["splits"]["val"]
    change_split(copy, lambda splits: splits.update(val=splits.pop("train")[:1]))
    assert train(recipe, *here) == 3
    told = capsys.readouterr().err
    assert (
        "validation data of this run changed: 1 shards removed (val-000000.tar); 1 shards" in told
    )
    assert "by --accept-new-data: the best loss is looked for anew\n" in told
    assert train(recipe, *here, "--accept-new-data") == 0
    after = state(run, 6)
    assert (after["best_step"], after["first_step"]) == (6, 0)
    assert after["best_loss"] > -1e9
    change_split(copy, lambda splits: splits.update(val=first))
    assert train(recipe, *here) == 3
    assert train(recipe, *here, "--accept-new-data") == 0  # the run is over, and saves it again
    assert train(recipe, *here, "train.steps=7") == 0  # it was accepted for good


def test_a_checkpoint_that_does_not_name_its_validation_data_goes_on(recipe, train, copy):
    run, here = recipe.parent / "runs" / "tiny", [f"data.train={copy}", *MORE]
    assert train(recipe, *here, "train.steps=3") == 0
    digest = state(run, 3)["held_out"]
    change_state(run, 3, held_out=None, earlier=None, best_loss=-1e9)
    assert train(recipe, *here, "train.steps=4") == 0
    assert state(run, 4)["held_out"] == digest
    assert state(run, 4)["best_loss"] > -1e9  # it may have been of other pictures


def test_a_mixture_s_counts_go_on_where_changed_data_are_accepted(recipe, train, copy):
    sources = f'data.sources=[{{path="{copy}", weight=3}}, {{path="{copy}", weight=1}}]'
    mixed = ["data.train=", sources, "train.log_every=1", "optim.schedule=constant"]
    assert train(recipe, *mixed, "train.steps=2") == 0
    for steps in (4, 5):
        change_split(copy, lambda splits: splits["train"].pop())
        assert train(recipe, *mixed, f"train.steps={steps}", "--accept-new-data") == 0
    found = events(recipe.parent / "runs" / "tiny").Scalars("data/source_copy_0")
    assert [(e.step, e.value) for e in found] == [(step, 12 * step) for step in range(1, 6)]


def test_the_file_of_a_state_in_which_nothing_is_empty_is_under_1_kb(tmp_path):
    steps, value = 10**7 - 1, -0.00012345678901234567
    scale = {"scale": 2.0**16, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    measured = Evaluation(*[value] * 13, kl_per_dim=(value,))
    full = State(
        step=steps,
        mean_error=value,
        best_step=steps,
        best_loss=value,
        steering=value,
        bad_samples=10**9,
        data="f" * DIGITS,
        held_out="f" * DIGITS,
        earlier=[steps],
        first_step=steps,
        first_epoch=10**4,
        epochs=10**4,
        loss_scale=scale | {"_growth_tracker": 1999},
        metrics=measured.summary(),
        measured=steps,
        rolled_back=steps,
        standing=Standing(steps, value, value, value, value, steps, steps),
        good_step=steps,
    )
    for _ in range(USUAL):
        note_good(full, value, value)
    empty = asdict(State())
    given = {name for name, value in asdict(full).items() if value != empty[name]}
    assert given == empty.keys() - {"version", "torch"}
    path = Checkpoints(tmp_path, 1).save(full, {})
    assert (path / "state.json").stat().st_size < 1000
