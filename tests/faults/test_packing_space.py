"""python -m shards.pack where space or rights are short."""

import os
import random
import re
import shutil
import subprocess
import sys

import pytest

from shards.pack import main
from tests.test_pack import make_source, tree

FLAGS = ("--size", "20", "--val", "0.3", "--shard-bytes", "6K", "--workers", "2")
BUDGETS = int(os.environ.get("DVAE_TEST_BUDGETS", 5))  # 50 by hand
_MOUNTED = """
mount -t tmpfs -o size=$2 tmpfs "$1" && shift 2 || exit 99
"$@"; code=$?
cp -r "$OUT/." "$KEPT"
exit $code
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source") / "photos", 48)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main([str(source), str(out), *FLAGS]) == 0
    return tree(out)


def check_halted(done, out, source, whole):
    """One line on stderr, only whole files under final names, and the next run ends well."""
    assert (done.returncode, done.stderr.count("\n")) == (6, 1), done.stderr
    assert "it goes on after the last whole shard" in done.stderr
    assert re.search(r"error: '\S+/out/\S+' cannot be written \(", done.stderr)
    assert "a shard needs up to 0.01 MB, " in done.stderr
    assert f" MB are free, {len(list(out.glob('.journal-*')))} shards are kept" in done.stderr
    assert not list(out.glob(".tmp-*"))
    found = {name: data for name, data in tree(out).items() if not name.startswith(".")}
    assert found.items() <= whole.items()
    assert "manifest.json" not in found
    assert main([str(source), str(out), *FLAGS]) == 0
    assert tree(out) == whole


_LIMITED = """
import resource, signal, sys
from shards.pack import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("budget", random.Random(0).sample(range(200, 6000), BUDGETS))
def test_a_file_that_may_not_grow_halts_the_run_and_nothing_is_lost(
    budget, source, whole, tmp_path, record_property
):
    out = tmp_path / "out"
    command = [sys.executable, "-c", _LIMITED, str(budget), str(source), str(out), *FLAGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "File too large" in done.stderr
    check_halted(done, out, source, whole)
    record_property("of a shard", 1)


def in_a_mount(script, *arguments, seconds=60, **environment):
    """Run a script as root of a mount namespace of its own; skip where that isn't allowed."""
    command = ["unshare", "-m", "sh", "-c", script, "sh", *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **environment},
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"mounts are not allowed here: {done.stderr.strip()}")
    return done


needs_unshare = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare"
)


@needs_unshare
@pytest.mark.parametrize("size", ["24k", "52k", "76k"])
def test_a_full_disk_halts_the_run_and_nothing_is_lost(size, source, whole, tmp_path):
    out, kept = tmp_path / "out", tmp_path / "kept"
    out.mkdir()
    kept.mkdir()
    command = [sys.executable, "-m", "shards.pack", source, out, *FLAGS]
    done = in_a_mount(_MOUNTED, out, size, *command, OUT=str(out), KEPT=str(kept))
    assert "No space left on device" in done.stderr
    check_halted(done, kept, source, whole)


@needs_unshare
def test_a_read_only_folder_is_named_before_the_source_is_looked_at(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    script = 'mount -t tmpfs -o ro tmpfs "$1" && shift || exit 99; exec "$@"'
    for there in (out, out / "new" / "shards"):
        command = [sys.executable, "-m", "shards.pack", tmp_path / "no source", there, *FLAGS]
        done = in_a_mount(script, out, *command)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "cannot be written (Read-only file system): choose another folder" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_named(source, tmp_path, capsys):
    (tmp_path / "out").mkdir(mode=0o555)
    assert main([str(source), str(tmp_path / "out")]) == 2
    assert "cannot be written (Permission denied)" in capsys.readouterr().err
