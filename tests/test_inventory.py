"""`dvae checkpoints RUN`: what is listed, verified, pruned and exported."""

import shutil

import pytest
from safetensors.torch import load_file

from dvae.checkpoint import Checkpoints, State
from dvae.cli import main
from dvae.find import load
from tests.test_checkpoint import files_of, trained_parts


@pytest.fixture
def run(recipe, train):
    overrides = ["train.keep=100", "train.save_every=1", "eval.every=4"]
    assert train(recipe, *overrides) == 0
    return recipe.parent / "runs" / "tiny"


def spoil(run, step):
    victim = run / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1])


def steps(run):
    return list(Checkpoints(run / "checkpoints", 1).names())


def test_checkpoints_are_listed_and_damaged_ones_are_named(run, capsys):
    capsys.readouterr()
    assert main(["checkpoints", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"step-{step:08d}" for step in range(1, 7)]
    assert lines[-1].endswith("last")
    assert sum("best" in line for line in lines) == 1
    spoil(run, 6)
    assert main(["checkpoints", str(run)]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert "damaged: model.safetensors has" in lines[5]
    assert lines[4].endswith("last")


def test_pruning_keeps_the_last_whole_ones_the_best_and_every_nth(run, capsys):
    best = Checkpoints(run / "checkpoints", 1).names()[max(steps(run))]
    best_step = int(load(str(run / "checkpoints" / "best")).about.step)
    assert best.is_dir()
    spoil(run, 5)
    assert main(["checkpoints", str(run), "--prune", "--keep", "2", "--keep-every", "3"]) == 4
    assert set(steps(run)) == {best_step, 3, 4, 5, 6}  # 5 is damaged: it doesn't count
    assert main(["checkpoints", str(run), "--prune", "--keep", "1"]) == 4
    assert set(steps(run)) == {best_step, 5, 6}


def test_any_checkpoint_is_exported(run, tmp_path, capsys):
    assert main(["checkpoints", str(run), "--export", "2", "--out", str(tmp_path / "w")]) == 0
    saved = load_file(run / "checkpoints" / "step-00000002" / "ema.safetensors")
    found = load_file(tmp_path / "w" / "model.safetensors")
    assert all((found[name] == saved[name]).all() for name in saved)
    assert main(["checkpoints", str(run), "--export", "2", "--out", str(tmp_path / "w")]) == 2
    assert main(["checkpoints", str(run), "--export", "9", "--out", str(tmp_path / "v")]) == 2
    assert load(str(run / "checkpoints" / "last")).about.step == 6
    spoil(run, 6)
    assert load(str(run / "checkpoints" / "last")).about.step == 5
    assert main(["checkpoints", str(run), "--export", "6", "--out", str(tmp_path / "v")]) == 4
    assert not (tmp_path / "v").exists()


def test_every_nth_is_kept_while_training(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_every=3)
    parts = files_of(*trained_parts(1))
    for step in range(1, 9):
        checkpoints.save(State(step=step), parts)
    assert list(checkpoints.names()) == [3, 6, 8]


def test_a_folder_that_is_no_run_is_told(tmp_path, capsys):
    assert main(["checkpoints", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(__file__, tmp_path / "checkpoints")
    assert main(["sample", str(tmp_path / "checkpoints" / "best")]) == 4
