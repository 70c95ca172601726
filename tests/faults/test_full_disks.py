"""Rows 49 and 50: what training does where the disk is full or limited."""

import os
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dvae.checkpoint import Checkpoints
from dvae.files import damage
from tests.conftest import ROOT
from tests.faults.test_packing_space import in_a_mount, needs_unshare

SECONDS = 300  # of a machine that does other things, too
BUDGETS = int(os.environ.get("DVAE_TEST_BUDGETS", "10"))  # 50 by hand
OVERRIDES = ["train.save_every=1", "eval.every=100", "optim.schedule=constant"]

_SAVING = """
import resource, sys
from pathlib import Path
from random import Random
from dvae.checkpoint import Checkpoints, State
from tests.test_checkpoint import files_of, trained_parts

draw, folder, count = Random(0), Path(sys.argv[1]), int(sys.argv[2])
checkpoints, parts = Checkpoints(folder, keep=1), files_of(*trained_parts(1))
good = checkpoints.save(State(step=0), parts)
largest = max(path.stat().st_size for path in good.iterdir())
whole = {path.name: path.read_bytes() for path in good.iterdir()}
for step in range(1, count + 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (draw.randrange(largest), resource.RLIM_INFINITY))
    try:
        checkpoints.save(State(step=step), parts)
        raise SystemExit("it fitted")
    except OSError as error:
        assert error.strerror == "File too large", error
    assert checkpoints.newest() == (good, [])
    assert {path.name: path.read_bytes() for path in good.iterdir()} == whole
    assert [path.name for path in folder.iterdir()] == [good.name]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
assert checkpoints.save(State(step=count + 1), parts).is_dir()
print(count, "budgets")
"""


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one_whole(tmp_path, record_property):
    done = run(_SAVING, tmp_path, BUDGETS)
    assert done.stdout == f"{BUDGETS} budgets\n", done.stderr
    record_property("budgets of a checkpoint", BUDGETS)


_LOGGING = """
import resource, sys
from pathlib import Path
from random import Random
from torch.utils.tensorboard import summary
from dvae.events import EventFile

draw, count = Random(0), int(sys.argv[2])
for number in range(count):
    folder = Path(sys.argv[1]) / str(number)
    folder.mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (draw.randrange(2500), resource.RLIM_INFINITY))
    events = EventFile(folder / "tensorboard", 0)
    for step in range(100):
        if step == 80:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        events.add(summary.scalar("loss", step), step)
        events.flush()
"""


def logged(folder):
    seen = EventAccumulator(str(folder), {"scalars": 0})
    seen.Reload()
    return [(e.step, e.value) for e in seen.Scalars("loss")]


def test_what_tensorboard_shows_is_whole_again_when_there_is_room(tmp_path, record_property):
    done = run(_LOGGING, tmp_path, BUDGETS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cannot be written (File too large)") == BUDGETS  # once each
    assert done.stdout.count("is written again") == BUDGETS
    for number in range(BUDGETS):
        whole = [(step, float(step)) for step in range(100)]
        assert logged(tmp_path / str(number) / "tensorboard") == whole
    record_property("of TensorBoard's file", BUDGETS)


def test_a_removed_tensorboard_folder_is_made_again(tmp_path):
    from shutil import rmtree

    from torch.utils.tensorboard import summary

    from dvae.events import EventFile

    events = EventFile(tmp_path / "tensorboard", 0)
    rmtree(tmp_path / "tensorboard")
    events.add(summary.scalar("loss", 1.0), 1)
    events.flush()
    assert logged(tmp_path / "tensorboard") == [(1, 1.0)]


TRAIN = [sys.executable, "-m", "dvae.train"]
_SMALL_DISK = 'mount -t tmpfs -o size=$2 tmpfs "$1" && shift 2 || exit 99; "$@"; code=$?; '


@pytest.mark.slow
@needs_unshare
def test_a_run_outlives_a_disk_that_is_full_for_tensorboard(recipe, tmp_path):
    folder = recipe.parent / "runs" / "tiny" / "tensorboard"
    folder.mkdir(parents=True)
    done = in_a_mount(_SMALL_DISK + "exit $code", folder, "4k", *TRAIN, recipe, seconds=SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("No space left on device") == 1
    assert damage(recipe.parent / "runs" / "tiny" / "weights") is None


@pytest.mark.slow
@needs_unshare
@pytest.mark.parametrize("background", ["true", "false"])
def test_a_full_disk_ends_a_run_with_code_6_and_its_last_checkpoint_whole(
    recipe, train, tmp_path, background
):
    runs, kept = recipe.parent / "runs", tmp_path / "kept"
    runs.mkdir()
    filler = f"(until [ -e {runs}/tiny/checkpoints/step-00000002 ]; do sleep 0.02; done; "
    filler += "for n in $(seq 200); do cat /dev/zero; sleep 0.05; done "
    filler += f">> {runs}/others 2>/dev/null) & "  # the room that was there at the start goes
    script = _SMALL_DISK.replace("99; ", "99; " + filler)
    script += f'kill $!; rm "{runs}/others"; cp -r "{runs}/." "{kept}"; exit $code'
    kept.mkdir()
    more = ["train.steps=1000", f"train.async_save={background}"]
    done = in_a_mount(script, runs, "12M", *TRAIN, recipe, *OVERRIDES, *more, seconds=SECONDS)
    assert done.returncode == 6, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: the checkpoint of step")
    assert "the third failure in a row" in done.stderr
    assert done.stdout.count("training goes on") >= 2
    checkpoints = Checkpoints(kept / "tiny" / "checkpoints", 1)
    assert checkpoints.newest()[1] == []
    last = max(checkpoints.names())
    assert not list(kept.rglob(".tmp-*"))
    assert train(recipe, f"run.dir={kept}", *OVERRIDES, f"train.steps={last + 1}") == 0
