"""`dvae doctor`: real faults of machine, shards and runs are named, with what to do."""

import json
import shutil
import socket
import sys

import pytest

from dvae import machine
from dvae.cli import main
from dvae.files import locked
from dvae.machine import versions
from tests.fault_server import serving
from tests.faults.shard_files import flip
from tests.faults.test_packing_space import in_a_mount, needs_unshare


@pytest.fixture
def doctor(capsys):
    """Arguments -> exit code, and the text of each subject's notes that aren't ok."""

    def run(*arguments):
        capsys.readouterr()
        code = main(["doctor", *map(str, arguments)])
        *lines, last = capsys.readouterr().out.splitlines()
        assert last.startswith(f"{len(lines)} looked at: ")
        assert {line.split()[0] for line in lines} <= {"ok", "warning", "wrong"}
        wrong = [" ".join(line.split()[1:]) for line in lines if line.startswith("wrong")]
        assert code == (1 if wrong else 0)
        return wrong, lines

    return run


def test_a_whole_run_is_well_and_its_parts_are_named(trained, shards, doctor):
    wrong, lines = doctor(trained, "--verify")
    assert wrong == []
    subjects = {line[9:25].strip() for line in lines}
    assert {"python", "torch", "cpu", "disk", "open files", "port", "locale"} <= subjects
    assert {"recipe", "checkpoints", "weights", "data", "shards"} <= subjects
    assert any("2 whole, the last step-00000006" in line for line in lines)


def test_the_machine_alone_and_a_recipe_are_looked_at(recipe, doctor):
    assert doctor()[0] == []
    wrong, lines = doctor(recipe)
    assert wrong == []
    assert any("train: 48 samples" in line for line in lines)


def test_damage_to_checkpoints_and_weights_is_named_with_what_is_left(trained, doctor):
    last, first = (trained / "checkpoints" / f"step-0000000{n}" for n in (6, 3))
    flip(last / "optimizer.safetensors", 1000)
    (trained / "weights" / "config.json").unlink()
    wrong, _ = doctor(trained)
    assert len(wrong) == 2
    assert "optimizer.safetensors does not have the SHA-256" in wrong[0]
    assert wrong[0].endswith("delete it; the last whole one is step-00000003")
    assert "config.json is missing: move it away" in wrong[1]
    (first / "state.json").unlink()
    wrong, _ = doctor(trained)
    assert "none is left that is whole; choose another run.name" in wrong[0]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda d: (d / "train-000001.tar").unlink(), "train-000001.tar is missing"),
        (lambda d: (d / "train-000000.tar").write_bytes(b"x"), "train-000000.tar has 1 of"),
        (lambda d: (d / "train-000000.index.npy").unlink(), "index.npy is missing"),
        (lambda d: flip(d / "val-000000.index.npy", 300), "val-000000.index.npy is not the index"),
        (
            lambda d: (d / "manifest.json").write_text("{"),
            "is not JSON: run python -m shards.index",
        ),
        (shutil.rmtree, "is not a folder: make shards"),
    ],
)
def test_damage_to_shards_is_named(shards, tmp_path, doctor, spoil, told):
    copy = shutil.copytree(shards, tmp_path / "copy")
    spoil(copy)
    wrong, _ = doctor("--shards", copy)
    assert len(wrong) == 1
    assert told in wrong[0]


def test_a_flipped_bit_amid_a_shard_is_found_by_reading_it(shards, tmp_path, doctor):
    copy = shutil.copytree(shards, tmp_path / "copy")
    flip(copy / "train-000000.tar", 700)
    assert doctor("--shards", copy)[0] == []
    wrong, _ = doctor("--shards", copy, "--verify")
    assert len(wrong) == 1
    assert "train-000000.tar does not have the SHA-256" in wrong[0]
    with serving(copy) as server:
        assert doctor("--shards", f"{server.url}/copy", "--verify")[0] == wrong


def test_shards_that_changed_since_the_run_began_are_named(trained, shards, tmp_path, doctor):
    copy = shutil.copytree(shards, tmp_path / "copy")
    value = json.loads((copy / "manifest.json").read_text())
    value["splits"]["train"].pop()
    (copy / "manifest.json").write_text(json.dumps(value))
    path = trained / "config.toml"
    path.write_text(path.read_text().replace(str(shards), str(copy)))
    wrong, _ = doctor(trained)
    assert len(wrong) == 1
    assert "the data of this run changed" in wrong[0]
    assert "--accept-new-data" in wrong[0]


def test_a_recipe_that_was_spoiled_and_a_run_at_work_are_told(trained, doctor):
    with locked(trained):
        _, lines = doctor(trained)
    assert any("is at work on it" in line for line in lines)
    assert not any("is at work on it" in line for line in doctor(trained)[1])
    (trained / "config.toml").write_text("model = [")
    wrong, _ = doctor(trained)
    assert len(wrong) == 1
    assert "config.toml" in wrong[0]


def test_what_is_neither_run_nor_recipe_is_a_mistake(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 2
    assert "is neither a run (it has no config.toml) nor a recipe" in capsys.readouterr().err


def test_a_port_in_use_is_a_warning_with_the_way_out():
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        note = machine.port(number, "TensorBoard's", "take another")
        assert (note.verdict, note.text.count("in use: take another")) == ("warning", 1)
    assert machine.port(number, "TensorBoard's", "take another").verdict == "ok"


def test_packages_that_are_too_old_or_newer_than_tested_are_named(tmp_path, monkeypatch):
    for name, version in (("tqdm", "4.1"), ("numpy", "99.0"), ("pyarrow", "1.0")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    told = {note.subject: note for note in versions() if note.verdict != "ok"}
    assert told["tqdm"].verdict == told["pyarrow"].verdict == "wrong"
    assert "4.1, and >=4.66 is needed: pip install 'tqdm>=4.66'" in told["tqdm"].text
    assert told["numpy"].verdict == "warning"
    assert "was tested, not this" in told["numpy"].text


@needs_unshare
def test_a_narrow_machine_is_warned_of_and_a_folder_that_is_none_is_wrong(tmp_path):
    (tmp_path / "runs").write_text("a file")
    done = in_a_mount(
        'mount -t tmpfs -o size=1m tmpfs /dev/shm || exit 99; ulimit -n 64; cd "$1"; shift; "$@"',
        tmp_path,
        *(sys.executable, "-m", "dvae.cli", "doctor"),
        HOME="/nowhere",
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 1, done.stderr
    told = {line[9:25].strip(): line for line in done.stdout.splitlines()}
    for subject, verdict, remedy in (
        ("shared memory", "warning", "docker run --shm-size=1g"),
        ("open files", "wrong", "raise it with ulimit -n 4096"),
        ("locale", "warning", "messages ascii: export LC_ALL=C.UTF-8"),
        ("home", "warning", "/nowhere can not be written: set HOME"),
        ("disk", "wrong", "choose another run.dir"),
    ):
        assert told[subject].startswith(verdict)
        assert remedy in told[subject]


def test_what_a_container_keeps_of_files_is_no_memory_that_it_lacks(tmp_path):
    for name, text in (("max", "8000\n"), ("current", "7900\n"), ("stat", "anon 200\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert machine.room_of_group(tmp_path) == 100
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 7000\nactive_file 600\nslab 9\n")
    assert machine.room_of_group(tmp_path) == 7700
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.room_of_group(tmp_path) is None
    assert machine.room_of_group(tmp_path / "none") is None
