"""The cache of remote shards: whole entries, shared by processes, never another data set's bytes."""

import dataclasses
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dvae.data.cache import CachedStore, cached
from dvae.data.index import find_split
from dvae.data.reader import Reader
from dvae.data.storage import LocalStore
from dvae.errors import UserError

from .conftest import ROOT
from .faults.shard_files import make_shards

BLOCK = 1000
NAME = "train-000000.tar"


class Counted(LocalStore):
    """A folder whose reads are counted, and that counts as remote."""

    is_remote = True
    bytes_read = 0

    def read(self, name, offset, size):
        self.bytes_read += size
        return super().read(name, offset, size)

    reread = read


def data_set(folder, seed, size=10_300):
    folder.mkdir(parents=True)
    data = random.Random(seed).randbytes(size)
    (folder / NAME).write_bytes(data)
    return data


def open_cache(folder, tmp_path, max_bytes=10**6):
    data = (folder / NAME).read_bytes()
    sizes, checksums = {NAME: len(data)}, {NAME: hashlib.sha256(data).hexdigest()}
    store = Counted(folder)
    return CachedStore(store, tmp_path / "cache", max_bytes, sizes, checksums, BLOCK), store


def entries(tmp_path):
    return [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")]


def test_any_range_is_the_shard_s_bytes_and_a_byte_is_fetched_once(tmp_path):
    data = data_set(tmp_path / "a", 1)
    store, far = open_cache(tmp_path / "a", tmp_path)
    dice = random.Random(0)
    for _ in range(300):
        start = dice.randrange(len(data))
        end = dice.randrange(start, len(data) + 1)
        assert store.read(NAME, start, end - start) == data[start:end]
    assert far.bytes_read == len(data)
    again, far = open_cache(tmp_path / "a", tmp_path)
    assert again.read(NAME, 0, len(data)) == data
    assert far.bytes_read == 0


def test_equal_names_in_two_data_sets_and_a_shard_packed_anew_never_meet(tmp_path):
    first, second = data_set(tmp_path / "tr", 1), data_set(tmp_path / "va", 2)
    for folder, data in (("tr", first), ("va", second), ("tr", first)):
        store, _ = open_cache(tmp_path / folder, tmp_path)
        assert store.read(NAME, 0, len(data)) == data
    changed = bytes(reversed(first))
    (tmp_path / "tr" / NAME).write_bytes(changed)
    store, _ = open_cache(tmp_path / "tr", tmp_path)
    assert store.read(NAME, 0, len(changed)) == changed


def test_a_damaged_entry_is_fetched_again_when_the_reader_says_so(tmp_path):
    data = data_set(tmp_path / "a", 1)
    store, _ = open_cache(tmp_path / "a", tmp_path)
    store.read(NAME, 0, len(data))
    for entry in entries(tmp_path):
        entry.write_bytes(bytes(entry.stat().st_size))
    assert store.read(NAME, 100, 10) == bytes(10)  # only a checksum can see it
    assert store.reread(NAME, 100, 10) == data[100:110]
    assert store.read(NAME, 100, 10) == data[100:110]


def test_an_entry_that_was_cut_short_is_fetched_again(tmp_path):
    data = data_set(tmp_path / "a", 1)
    store, _ = open_cache(tmp_path / "a", tmp_path)
    store.read(NAME, 0, len(data))
    for entry in entries(tmp_path):
        os.truncate(entry, entry.stat().st_size - 1)
    assert store.read(NAME, 0, len(data)) == data


def test_the_oldest_entries_go_first(tmp_path):
    data = data_set(tmp_path / "a", 1)
    store, far = open_cache(tmp_path / "a", tmp_path, max_bytes=4 * BLOCK)
    for block in range(10):
        store.read(NAME, block * BLOCK, BLOCK)
        time.sleep(0.01)  # the file system's clock
        assert sum(p.stat().st_size for p in entries(tmp_path)) <= 4 * BLOCK
    before = far.bytes_read
    store.read(NAME, 9 * BLOCK, BLOCK)
    store.read(NAME, 7 * BLOCK, BLOCK)
    assert far.bytes_read == before
    assert store.read(NAME, 0, BLOCK) == data[:BLOCK]
    assert far.bytes_read == before + BLOCK


CHILD = """
import sys
from pathlib import Path
from tests.test_cache import BLOCK, NAME, entries, open_cache
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
store, far = open_cache(folder, out)
size = (folder / NAME).stat().st_size
for turn in range(int(sys.argv[3])):
    data = store.read(NAME, 0, size)
    assert data == (folder / NAME).read_bytes()
    if int(sys.argv[3]) > 1:
        for entry in entries(out):
            entry.unlink(missing_ok=True)
print(far.bytes_read)
"""


def child(tmp_path, turns):
    arguments = [sys.executable, "-c", CHILD, str(tmp_path / "a"), str(tmp_path), str(turns)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_fetch_every_byte_once_between_them(tmp_path):
    data = data_set(tmp_path / "a", 1, size=200_500)
    processes = [child(tmp_path, 1), child(tmp_path, 1)]
    fetched = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(fetched) == len(data)


def test_killed_while_it_writes_it_leaves_whole_entries_only(tmp_path):
    data = data_set(tmp_path / "a", 1, size=200_500)
    process = child(tmp_path, 10_000)
    while not (tmp_path / "cache").exists() or not entries(tmp_path):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    store, _ = open_cache(tmp_path / "a", tmp_path)
    for entry in entries(tmp_path):
        assert entry.read_bytes() in data
    assert store.read(NAME, 0, len(data)) == data


FULL = """
import resource, signal, sys
from pathlib import Path
from tests.test_cache import BLOCK, NAME, entries, open_cache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
data = (folder / NAME).read_bytes()
store, far = open_cache(folder, out)
resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK // 2, BLOCK // 2))
assert store.read(NAME, 0, len(data)) == data
assert not [p for p in entries(out) if p.stat().st_size == BLOCK]
"""


def test_a_disk_without_room_costs_the_cache_and_one_warning(tmp_path):
    data_set(tmp_path / "a", 1)
    arguments = [sys.executable, "-c", FULL, str(tmp_path / "a"), str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stderr.count("warning: data.cache_dir=") == 1


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    data_set(tmp_path / "a", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.cache_dir=.* can't be written"):
        CachedStore(LocalStore(tmp_path / "a"), Path(tmp_path / "file" / "c"), 1, {}, {})


def test_damage_in_the_cache_is_found_by_the_pictures_and_fetched_again(tmp_path):
    near = find_split(make_shards(tmp_path / "a"), "train")
    split = cached(
        dataclasses.replace(near, tars=Counted(tmp_path / "a")), str(tmp_path / "c"), 10**6
    )
    whole = Reader(near).picture(5)
    assert Reader(split).picture(5) == whole
    for entry in (tmp_path / "c").glob("[!.]*"):
        entry.write_bytes(bytes(entry.stat().st_size))
    assert Reader(split).picture(5) == whole
    assert Reader(split).picture(6) == Reader(near).picture(6)


def test_what_a_killed_process_left_unfinished_is_removed_when_it_is_old(tmp_path):
    data_set(tmp_path / "a", 1)
    store, _ = open_cache(tmp_path / "a", tmp_path)
    old, new = tmp_path / "cache" / ".tmp-1-x", tmp_path / "cache" / ".tmp-2-x"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (1e9, 1e9))
    store.read(NAME, 0, 10)
    assert not old.exists()
    assert new.exists()
