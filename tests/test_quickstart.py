"""The quickstart itself, in its smallest form: draws or takes pictures, packs, trains, samples."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import ROOT

SMALL = [
    "train.steps=3",
    "train.global_batch_size=16",
    "model.channels=[8, 16]",
    "eval.every=3",
]


def quickstart(*arguments):
    if not (ROOT / ".venv" / "installed").is_file():
        pytest.skip("needs the .venv that bash tests/run.sh makes")
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"}
    return subprocess.run(
        ["bash", str(ROOT / "launch" / "quickstart.sh"), *arguments],
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def check(out: Path, text: str):
    for name in ("samples.png", "reconstructions.png"):
        assert str(out / name) in text
        with Image.open(out / name) as image:
            assert np.array(image).std() > 1
    assert (out / "run" / "weights" / "model.safetensors").is_file()
    assert list((out / "run" / "tensorboard").iterdir())
    assert f"tensorboard --logdir {out / 'run' / 'tensorboard'}" in text


@pytest.mark.slow
def test_without_a_folder_it_draws_its_own_dogs_and_again_changes_nothing(tmp_path):
    out = tmp_path / "with space"
    arguments = ["--out", str(out), "--dogs", "60", *SMALL]
    first = quickstart(*arguments)
    assert first.returncode == 0, first.stdout + first.stderr
    check(out, first.stdout)
    weights = (out / "run" / "weights" / "model.safetensors").read_bytes()
    again = quickstart(*arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "already packed" in again.stdout
    assert (out / "run" / "weights" / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_with_a_folder_it_takes_its_pictures(pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "my dogs")
    out = tmp_path / "out"
    done = quickstart(str(folder), "--out", str(out), *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    check(out, done.stdout)


@pytest.mark.parametrize("arguments", [["/no/such/folder"], ["--wat"]])
def test_a_mistake_is_exit_code_2_before_anything_is_done(arguments):
    done = quickstart(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


@pytest.mark.slow
def test_a_folder_without_pictures_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    done = quickstart(str(tmp_path / "empty"), "--out", str(tmp_path / "out"), *SMALL)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "empty") in done.stderr
