"""The cache of remote shards: never wrong, never half, never larger than allowed."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from dvae.data.cache import CachedStore, cached
from dvae.data.http import HttpStore
from dvae.data.manifest import find_split
from dvae.data.reader import Reader
from dvae.errors import UserError
from tests.conftest import ROOT
from tests.fault_server import serving
from tests.faults.shard_files import make_shards

PIECE = 4096  # bytes; a shard of make_shards has three


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("served") / "data")


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as server:
        yield server


def cache_of(url, folder, cache, limit=1 << 20, piece=PIECE):
    split = find_split(folder, "train")
    return CachedStore(HttpStore(f"{url}/data"), cache, limit, split.shards, piece)


def entries(cache):
    return [path for path in cache.iterdir() if not path.name.startswith(".")]


def tar(folder, number):
    return f"train-{number:06d}.tar", (folder / f"train-{number:06d}.tar").read_bytes()


def test_any_range_comes_out_right_and_is_fetched_once(server, folder, tmp_path):
    draw = np.random.default_rng(0)
    server.bytes.clear()
    stores = [cache_of(server.url, folder, tmp_path) for _ in range(2)]
    for number in range(120):
        name, data = tar(folder, number % 3)
        start, end = sorted(draw.integers(0, len(data) + 1, 2).tolist())
        assert stores[number % 2].read(name, start, end - start) == data[start:end]
    assert server.bytes == {tar(folder, n)[0]: len(tar(folder, n)[1]) for n in range(3)}
    assert all(path.stat().st_size == int(path.name[65:]) for path in entries(tmp_path))


def test_data_sets_with_equal_names_do_not_meet_in_a_cache(folder, tmp_path):
    other = make_shards(tmp_path / "data", shards=6)
    for number in range(3):  # other pictures under the names of the first
        (other / f"train-{number + 3:06d}.tar").rename(other / f"train-{number:06d}.tar")
    with serving(folder) as one, serving(other) as two:
        for _ in range(2):
            for number in range(3):
                for served, where in ((one, folder), (two, other)):
                    name, data = tar(where, number)
                    store = cache_of(served.url, folder, tmp_path / "cache")
                    assert store.read(name, 0, len(data)) == data


def test_equal_addresses_with_other_checksums_do_not_meet_in_a_cache(folder, tmp_path):
    changing = make_shards(tmp_path / "data")
    with serving(changing) as served:
        for _ in range(2):
            store = cache_of(served.url, changing, tmp_path / "cache")
            name, data = tar(changing, 0)
            assert store.read(name, 0, len(data)) == data
            make_shards(tmp_path / "more", shards=4)
            (tmp_path / "more" / "train-000003.tar").replace(changing / name)
            text = (changing / "manifest.json").read_text()
            first = find_split(changing, "train").shards[0]
            last = find_split(tmp_path / "more", "train").shards[3]
            (changing / "manifest.json").write_text(text.replace(first.sha256, last.sha256))


def test_a_damaged_entry_is_found_by_the_pictures_and_fetched_again(
    server, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("dvae.data.cache.PIECE", PIECE)
    split = cached(find_split(HttpStore(f"{server.url}/data"), "train"), str(tmp_path), 1 << 20)
    Reader(split).picture(5)
    server.bytes.clear()
    for path in entries(tmp_path):
        if path.stat().st_size > 1000:
            path.write_bytes(b"\0" * path.stat().st_size)
    assert Reader(split).picture(5) == Reader(find_split(folder, "train")).picture(5)
    assert sum(server.bytes.values()) > 0
    for path in entries(tmp_path):
        path.write_bytes(path.read_bytes()[:100])  # cut
    assert Reader(split).picture(5) == Reader(find_split(folder, "train")).picture(5)


def test_the_oldest_entries_go_when_the_cache_is_full(server, folder, tmp_path):
    limit = 3 * PIECE
    store = cache_of(server.url, folder, tmp_path, limit)
    order = []
    for number in (0, 1, 2, 0):
        name, data = tar(folder, number)
        for start in range(0, len(data), PIECE):
            assert store.read(name, start, 10) == data[start : start + 10]
            order.append(store._entry(store._shards.named(name), start)[0])
            kept = {path.name for path in entries(tmp_path)}
            assert sum(path.stat().st_size for path in entries(tmp_path)) <= limit
            newest = list(dict.fromkeys(reversed(order)))[: len(kept)]
            assert kept == set(newest)


def test_a_piece_larger_than_the_cache_is_read_past_it(server, folder, tmp_path):
    store = cache_of(server.url, folder, tmp_path, limit=100)
    name, data = tar(folder, 0)
    assert store.read(name, 0, len(data)) == data
    assert entries(tmp_path) == []


_FILL = """
import sys
from pathlib import Path
from tests.test_cache import cache_of, tar
url, folder, cache, times = sys.argv[1:]
for time in range(int(times)):
    store = cache_of(url, Path(folder), Path(cache), piece=512)
    for number in range(3):
        name, data = tar(Path(folder), number)
        assert store.read(name, 0, len(data)) == data
    print("read", flush=True)
"""


def fill(server, folder, cache, times=1, prepare=""):
    command = [sys.executable, "-c", prepare + _FILL, server.url, str(folder), str(cache)]
    return subprocess.Popen(
        [*command, str(times)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_share_a_cache_and_fetch_each_piece_once(server, folder, tmp_path):
    server.bytes.clear()
    both = [fill(server, folder, tmp_path) for _ in range(2)]
    for process in both:
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (0, "read\n", "")
    assert server.bytes == {tar(folder, n)[0]: len(tar(folder, n)[1]) for n in range(3)}


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_only_whole_entries(server, folder, tmp_path):
    for _ in range(3):
        with fill(server, folder, tmp_path, times=1000) as process:
            while not entries(tmp_path) and process.poll() is None:
                pass
            process.send_signal(signal.SIGKILL)
        for path in entries(tmp_path):
            assert path.stat().st_size == int(path.name[65:])
        store = cache_of(server.url, folder, tmp_path, piece=512)
        for number in range(3):
            name, data = tar(folder, number)
            assert store.read(name, 0, len(data)) == data
        for path in entries(tmp_path):
            path.unlink()


def test_what_a_killed_process_left_unfinished_is_removed_when_it_is_old(server, folder, tmp_path):
    old, new = tmp_path / ".tmp-1-x", tmp_path / ".tmp-2-x"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (1e9, 1e9))
    cache_of(server.url, folder, tmp_path).read(tar(folder, 0)[0], 0, 10)
    assert not old.exists()
    assert new.exists()


def test_a_full_disk_ends_the_caching_with_one_warning(server, folder, tmp_path):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
    process = fill(server, folder, tmp_path, prepare=full)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "read\n")
    assert errors.count("\n") == 1
    assert "File too large): shards are read past the cache" in errors
    assert entries(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_refused(server, tmp_path):
    (tmp_path / "file").write_text("")
    split = find_split(HttpStore(f"{server.url}/data"), "train")
    with pytest.raises(UserError, match="data.cache_dir=.* can't be written"):
        cached(split, str(tmp_path / "file"), 1 << 20)
