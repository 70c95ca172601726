"""Row 51: a run's folder that goes, comes back or can't be written any more, under way."""

import os
import shutil
import subprocess
import sys
import time
from ctypes.util import find_library
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dvae.checkpoint import Checkpoints
from tests.conftest import ROOT
from tests.faults.worlds import train_apart

OVERRIDES = ["train.steps=10", "train.save_every=1", "eval.every=10", "train.log_every=1"]
_AWAY = "run.saver.wait(); run.config.folder.rename(run.config.folder.with_name('away'))"
_BACK = "run.saver.wait(); run.config.folder.with_name('away').rename(run.config.folder)"
_REMOVED = "import shutil; run.saver.wait(); shutil.rmtree(run.config.folder)"
_NAMESPACE = """
import ctypes, os, subprocess
if ctypes.CDLL(None).unshare(0x20000) or subprocess.run(["mount", "--make-rprivate", "/"]).returncode:
    os._exit(99)
"""
_READ_ONLY = """
import subprocess
run.saver.wait()
for options in (["--bind"], ["-o", "remount,ro,bind"]):
    folder = str(run.config.folder)
    subprocess.run(["mount", *options, folder, folder], check=True)
"""


def logged(run):
    seen = EventAccumulator(str(run / "tensorboard"), {"scalars": 0})
    seen.Reload()
    return [event.step for event in seen.Scalars("train/loss")]


@pytest.mark.slow
def test_a_folder_that_comes_back_in_time_costs_nothing(recipe, train, tmp_path):
    done = train_apart(tmp_path / "1", recipe, *OVERRIDES, at_step={3: _AWAY, 5: _BACK})
    assert done.codes == [0], done.err
    assert done.out.count("could not be written (No such file or directory)") == 2
    assert done.out.count("tensorboard cannot be written (No such file or directory)") == 1
    assert done.out.count("tensorboard is written again") == 1
    assert train(recipe, *OVERRIDES, "run.name=still") == 0
    runs = recipe.parent / "runs"
    assert logged(runs / "tiny") == logged(runs / "still") == list(range(1, 11))
    for file in ("model", "optimizer", "ema"):
        found, expected = (
            load_file(runs / name / "checkpoints" / "step-00000010" / f"{file}.safetensors")
            for name in ("tiny", "still")
        )
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_a_folder_that_stays_away_ends_the_run_and_is_not_begun_anew(recipe, tmp_path):
    done = train_apart(tmp_path / "1", recipe, *OVERRIDES, at_step={3: _REMOVED})
    assert done.codes == [6], done.err
    message = done.err.splitlines()[-1]
    assert message.startswith("error: the checkpoint of step 6 could not be written (No such file")
    assert "see to the folder, and run the same command again" in message
    assert "Traceback" not in done.err
    assert not (recipe.parent / "runs" / "tiny").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root and mount")
def test_a_folder_that_became_read_only_ends_the_run_with_its_checkpoint_whole(
    recipe, train, tmp_path
):
    done = train_apart(
        tmp_path / "1", recipe, *OVERRIDES, at_start=_NAMESPACE, at_step={3: _READ_ONLY}
    )
    if done.codes == [99]:
        pytest.skip("mounts are not allowed here")
    assert done.codes == [6], done.err
    assert "(Read-only file system), the third failure in a row" in done.err.splitlines()[-1]
    assert done.out.count("tensorboard cannot be written (Read-only file system)") == 1
    path, damaged = Checkpoints(recipe.parent / "runs" / "tiny" / "checkpoints", 1).newest()
    assert (path.name, damaged) == ("step-00000003", [])
    assert train(recipe, *OVERRIDES) == 0


@pytest.fixture
def stale(tmp_path):
    """Mounts a folder whose handles are stale while a file is there: the mount, the file."""
    if os.geteuid() or not shutil.which("mount") or not Path("/dev/fuse").exists():
        pytest.skip("needs root and FUSE")
    if not find_library("fuse3"):
        pytest.skip("there is no libfuse: bash tests/faults/install.sh")
    real, mount, flag = tmp_path / "real", tmp_path / "mount", tmp_path / "flag"
    real.mkdir()
    command = [sys.executable, "tests/faults/stale_folder.py", str(real), str(mount), str(flag)]
    with subprocess.Popen(command, cwd=ROOT) as server:
        while not os.path.ismount(mount) and server.poll() is None:
            time.sleep(0.01)
        assert server.poll() is None
        yield mount, flag
        flag.unlink(missing_ok=True)
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.slow
def test_a_folder_with_stale_handles_for_a_while_costs_nothing(recipe, stale, tmp_path):
    mount, flag = stale
    at_step = {
        3: f"run.saver.wait(); open({str(flag)!r}, 'w')",
        5: f"import os; run.saver.wait(); os.unlink({str(flag)!r})",
    }
    done = train_apart(tmp_path / "1", recipe, *OVERRIDES, f"run.dir={mount}", at_step=at_step)
    assert done.codes == [0], done.err
    assert done.out.count("could not be written (Stale file handle)") == 2
    assert done.out.count("tensorboard is written again") == 1
    assert logged(mount / "tiny") == list(range(1, 11))
    path, damaged = Checkpoints(mount / "tiny" / "checkpoints", 1).newest()
    assert (path.name, damaged) == ("step-00000010", [])


@pytest.mark.slow
def test_a_folder_whose_handles_stay_stale_ends_the_run_with_its_checkpoint_whole(
    recipe, train, stale, tmp_path
):
    mount, flag = stale
    at_step = {3: f"run.saver.wait(); open({str(flag)!r}, 'w')"}
    done = train_apart(tmp_path / "1", recipe, *OVERRIDES, f"run.dir={mount}", at_step=at_step)
    assert done.codes == [6], done.err
    assert "(Stale file handle), the third failure in a row" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    flag.unlink()
    path, damaged = Checkpoints(mount / "tiny" / "checkpoints", 1).newest()
    assert (path.name, damaged) == ("step-00000003", [])
    assert train(recipe, *OVERRIDES, f"run.dir={mount}") == 0
