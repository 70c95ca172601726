"""Before a run begins: processes that don't fit together, and machines that lack something, are named."""

import os
import shutil
import sys

import pytest

from dvae.checks import check_disk, check_open_files, code_digest
from dvae.errors import ResourceError, UserError
from dvae.memory import checkpoint_bytes
from dvae.preflight import MOST_LINES, Seen, compare
from dvae.recipe import load_config

from .conftest import RECIPE, ROOT
from .faults.test_packing_space import in_a_mount, needs_unshare
from .processes import Part, run_together

TRAIN = [sys.executable, "-m", "dvae.train", "tiny.toml"]


@pytest.fixture
def machines(shards, tmp_path):
    """Two folders, each with its recipe and shards, that share the run's."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        recipe = RECIPE.format(shards="shards", runs=tmp_path / "runs")
        (folder / "tiny.toml").write_text(recipe)
        shutil.copytree(shards, folder / "shards")
    return folders


def start(machines, *commands):
    python_path = {"PYTHONPATH": str(ROOT)}
    return run_together([Part(c, m, python_path) for c, m in zip(commands, machines, strict=True)])


@pytest.mark.slow
def test_a_process_of_other_code_recipe_shards_and_limits_ends_all_of_them_with_code_2(
    machines, pictures, tmp_path
):
    from shards.pack import main

    shutil.copytree(ROOT / "dvae", machines[1] / "dvae", ignore=shutil.ignore_patterns("__py*"))
    with (machines[1] / "dvae" / "ema.py").open("a") as file:
        file.write("# another version\n")
    shutil.rmtree(machines[1] / "shards")
    packing = [str(pictures), str(machines[1] / "shards"), "--size", "33", "--val", "0.25"]
    assert main(packing) == 0
    limited = ["bash", "-c", 'ulimit -n 100; exec "$@"', "limited", *TRAIN]
    ended = start(machines, TRAIN, [*limited, "train.seed=7", "data.threads=1"])
    assert [one.code for one in ended] == [2, 2], ended
    lines = [line for line in ended[0].err.splitlines() if "process 1 on " in line]
    told = ["limit of 100 open files", "code is", "train.seed is 7, and 0 on process 0"]
    told += ["the training shards' digest is", "the validation shards' digest is"]
    for text in told:
        assert len([line for line in lines if text in line]) == 1, (text, ended[0].err)
    assert len(lines) == len(told), lines
    assert "process 0 tells why nothing was trained" in ended[1].err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    "DVAE_TEST_HOSTS" not in os.environ, reason="a launch more: set DVAE_TEST_HOSTS=1"
)
def test_a_shard_that_one_process_can_not_reach_ends_both_with_code_3(machines, tmp_path):
    next((machines[1] / "shards").glob("train-*.tar")).unlink()
    ended = start(machines, TRAIN, TRAIN)
    assert [one.code for one in ended] == [3, 3], ended
    assert "process 1 on " in ended[0].err
    assert ".tar is missing" in ended[0].err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@needs_unshare
def test_a_disk_without_room_for_the_checkpoints_is_told_at_the_start(recipe):
    runs = recipe.parent / "runs"
    runs.mkdir()
    script = 'mount -t tmpfs -o size=3M tmpfs "$1" && shift || exit 99; "$@"'
    train = [sys.executable, "-m", "dvae.train", recipe]
    done = in_a_mount(script, runs, *train, seconds=300)
    assert done.returncode == 6, done.stderr
    assert "has 3 MB free, and the 3 checkpoints that the recipe keeps" in done.stderr


@needs_unshare
def test_little_shared_memory_is_told_where_processes_talk_through_it(tmp_path):
    code = (
        "import sys; from pathlib import Path; from dvae.checks import check_shared_memory as c\n"
    )
    code += "c(1, Path(sys.argv[1])); c(2, Path(sys.argv[1]))"
    script = 'mount -t tmpfs -o size=48M tmpfs "$1" || exit 99; "$2" -c "$3" "$1"'
    done = in_a_mount(script, tmp_path, sys.executable, code, seconds=300)
    assert f"{tmp_path} has 48 MiB free, and 2 processes" in done.stderr


def test_the_room_that_checkpoints_take_is_known_before_there_is_a_network(trained, recipe):
    config = load_config(recipe)
    for game in ([], ["adversarial.weight=1", "adversarial.channels=8"]):
        one = load_config(recipe, game)
        assert checkpoint_bytes(one) > (checkpoint_bytes(config) if game else 0)
    folder = trained / "checkpoints" / "step-00000006"
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert size == pytest.approx(checkpoint_bytes(config), rel=0.02)
    check_disk(config)
    with pytest.raises(ResourceError, match="lower train.keep"):
        check_disk(load_config(recipe, [f"train.keep={10**9}"]))


def test_few_open_files_are_refused_only_where_they_do_not_suffice():
    check_open_files(2)
    with pytest.raises(UserError, match="raise it with ulimit -n"):
        check_open_files(10**9)


def test_the_code_has_one_digest():
    assert code_digest() == code_digest()
    assert len(code_digest()) == 64


def test_faults_are_told_by_place_unless_all_have_them():
    facts = {"torch": "2"}
    same = [Seen(n, "a", ((3, "no shards"),), facts) for n in range(3)]
    assert compare(same) == (3, ["no shards"])
    one = [Seen(0, "a", (), facts), Seen(1, "b", ((6, "full"),), {"torch": "3"})]
    assert compare(one) == (
        6,
        ["process 1 on b: full", "process 1 on b: torch is '3', and '2' on process 0 on a"],
    )
    assert compare([Seen(n, "a", (), facts) for n in range(3)]) == (0, [])
    many = [Seen(n, "a", (), {"torch": n}) for n in range(99)]
    assert compare(many)[1][-1] == f"and {98 - MOST_LINES} more"
