"""python -m shards.pack, killed, stopped, started twice, and with very many files."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from shards.pack import main
from tests.faults.limited import run_limited
from tests.pictures_on_disk import drawn, write_files
from tests.test_pack import make_source, packed, tree

FLAGS = ("--size", "20", "--val", "0.3", "--shard-bytes", "6K", "--workers", "2")
KILLS = int(os.environ.get("DVAE_TEST_PACKING_KILLS", "6"))  # 100 random ones take two minutes
MANY = int(os.environ.get("DVAE_TEST_FILES", 10_000))  # in one folder; 10**6 take minutes and 3 GB
POINTS = ("opened", "member", "written", "flushed", "renamed")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source") / "photos", 48, texts=4)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """What an undisturbed run gives."""
    out = packed(source, tmp_path_factory.mktemp("whole") / "out", *FLAGS)
    assert len(list(out.glob("*.tar"))) > 8
    return tree(out)


def command(source, out, *flags):
    return [sys.executable, "-m", "shards.pack", str(source), str(out), *FLAGS, *flags]


def run(source, out, **environment):
    return subprocess.run(
        command(source, out),
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def finals(folder):
    """What has a final name: every file but hidden ones and those that are not there any more."""
    found = {}
    for name in os.listdir(folder) if folder.is_dir() else ():
        if not name.startswith("."):
            try:
                found[name] = (folder / name).read_bytes()
            except FileNotFoundError:
                continue
    return found


def points():
    return [f"{name}:{count}" for name in POINTS for count in (1, 2, 5, 12)]


@pytest.mark.slow
@pytest.mark.parametrize("point", points())
def test_a_run_killed_at_any_point_goes_on_to_the_undisturbed_bytes(
    point, source, whole, tmp_path, record_property
):
    out = tmp_path / "out"
    killed = run(source, out, DVAE_FAILPOINT=point)
    assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
    assert finals(out).items() <= whole.items()
    again = run(source, out, DVAE_FAILPOINT=point)
    assert finals(out).items() <= whole.items()
    assert again.returncode in (-signal.SIGKILL, 0), again.stderr
    assert main([str(source), str(out), *FLAGS]) == 0
    assert tree(out) == whole
    deaths = [killed.returncode, again.returncode].count(-signal.SIGKILL)
    record_property("SIGKILLs at chosen points", deaths)


@pytest.mark.slow
def test_no_reader_sees_a_half_file_through_random_kills(source, whole, tmp_path, record_property):
    out, seen, wrong, is_over = tmp_path / "out", set(), [], threading.Event()

    def poll():
        while not is_over.is_set():
            for name, data in finals(out).items():
                seen.add(name)
                if data != whole[name]:
                    wrong.append((name, len(data)))

    poller = threading.Thread(target=poll)
    poller.start()
    draw = random.Random(0)
    kills = 0
    try:
        while kills < KILLS:
            with subprocess.Popen(command(source, out), stdout=subprocess.DEVNULL) as process:
                mark = out / ".packing"
                while not mark.exists() and process.poll() is None:
                    time.sleep(0.002)
                time.sleep(draw.uniform(0, 0.15))
                process.kill()
            kills += process.returncode == -signal.SIGKILL
            if (out / "manifest.json").exists():
                assert main([str(source), str(out), *FLAGS]) == 0
                assert tree(out) == whole
                shutil.rmtree(out)
        assert main([str(source), str(out), *FLAGS]) == 0
        assert tree(out) == whole
    finally:
        is_over.set()
        poller.join()
    assert not wrong
    assert seen
    record_property("random SIGKILLs", kills)


def test_finished_shards_are_kept_and_not_written_again(source, whole, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(source, out, DVAE_FAILPOINT="opened:20").returncode == -signal.SIGKILL
    before = {path.name: path.stat().st_ino for path in out.glob("[!.]*.tar")}
    journaled = len(list(out.glob(".journal-*")))
    assert journaled > 3
    assert main([str(source), str(out), *FLAGS, "--resume"]) == 0
    assert f"kept      {journaled} shards of an earlier run" in capsys.readouterr().out
    same = [name for name, node in before.items() if (out / name).stat().st_ino == node]
    assert len(same) >= journaled
    assert tree(out) == whole


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "index", "journal"])
def test_a_finished_shard_that_was_damaged_since_is_made_anew(harm, source, whole, tmp_path):
    out = tmp_path / "out"
    assert run(source, out, DVAE_FAILPOINT="opened:20").returncode == -signal.SIGKILL
    path = out / "train-000001.tar"
    data = path.read_bytes()
    if harm == "flip":
        path.write_bytes(data[:900] + bytes([data[900] ^ 1]) + data[901:])
    elif harm == "cut":
        path.write_bytes(data[:900])
    elif harm == "gone":
        path.unlink()
    elif harm == "index":
        (out / "train-000001.index.npy").write_bytes(b"")
    else:
        (out / ".journal-000001.json").write_bytes(b"{")
    assert main([str(source), str(out), *FLAGS]) == 0
    assert tree(out) == whole


def test_an_unfinished_run_of_other_options_is_refused_by_name(source, whole, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(source, out, DVAE_FAILPOINT="opened:20").returncode == -signal.SIGKILL
    other = [str(source), str(out), *FLAGS, "--quality", "50"]
    assert main(other) == 2
    assert "made otherwise (quality: 92, asked 50): give another" in capsys.readouterr().err
    assert main([*other, "--overwrite"]) == 0
    assert main([str(source), str(out), *FLAGS, "--overwrite"]) == 0
    assert tree(out) == whole


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_told_to_stop_leaves_whole_files_and_goes_on(number, code, whole, tmp_path):
    source = make_source(tmp_path / "photos", 150)
    out = tmp_path / "out"
    with subprocess.Popen(command(source, out), stderr=subprocess.PIPE, text=True) as process:
        while not (out / "train-000001.tar").exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(number)
        error = process.stderr.read()
    assert process.returncode == code
    assert "stopped: the same command goes on after the last whole shard" in error
    assert not list(out.glob(".tmp-*"))
    assert not (out / "manifest.json").exists()
    assert main([str(source), str(out), *FLAGS]) == 0
    assert main([str(source), str(tmp_path / "undisturbed"), *FLAGS]) == 0
    assert tree(out) == tree(tmp_path / "undisturbed")


def test_a_second_packer_is_refused_while_the_first_lives_and_no_longer(tmp_path, capsys):
    source = make_source(tmp_path / "photos", 150)
    out = tmp_path / "out"
    with subprocess.Popen(command(source, out), stdout=subprocess.DEVNULL) as first:
        while not (out / "train-000000.tar").exists() and first.poll() is None:
            time.sleep(0.002)
        first.send_signal(signal.SIGSTOP)
        assert main([str(source), str(out), *FLAGS]) == 2
        assert f"is in use by process {first.pid} on " in capsys.readouterr().err
        first.kill()
    assert main([str(source), str(out), *FLAGS]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("dedupe", "packed"), [("none", MANY), ("exact", 50)])
def test_a_folder_of_very_many_files_takes_little_memory(dedupe, packed, tmp_path, record_property):
    """Real pictures, hard links to fifty, since each has to be read, hashed and written."""
    few = write_files(tmp_path / "few", {f"{n}.jpg": drawn(n, side=16) for n in range(50)})
    (tmp_path / "photos").mkdir()
    for number in range(MANY):
        os.link(few / f"{number % 50}.jpg", tmp_path / "photos" / f"{number:07d}.jpg")
    command = (tmp_path / "photos", tmp_path / "out", "--shard-bytes", "64M", "--dedupe", dedupe)
    done = run_limited("shards.pack", *command, seconds=30 + MANY // 500)
    assert done.code == 0, done.err
    assert f"packed    {packed} into the split train" in done.out
    assert done.resident < (300 if dedupe == "none" else 400) << 20
    record_property("files in one folder", MANY)
    record_property("MB of memory for them, at most", done.resident >> 20)
