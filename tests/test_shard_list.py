"""Shards in columns are the shards that went in, and a manifest's wrong entries don't go in."""

import dataclasses
import json
import tracemalloc

import pytest

from dvae.data.http import HttpStore
from dvae.data.manifest import FORMAT, Shard, find_split, read_splits
from dvae.data.shard_list import ShardList, write_shards
from dvae.data.storage import StoreError
from dvae.errors import UserError
from tests.fault_server import serving

SHARDS = [Shard(f"träin-{i}.tar", 2**62 + i, f"{i:064x}", i, f"{i + 7:064x}") for i in range(50)]


def test_shards_come_out_as_they_went_in():
    columns = ShardList(SHARDS)
    assert list(columns) == SHARDS
    assert (columns[0], columns[-1]) == (SHARDS[0], SHARDS[-1])
    assert list(columns[5:1:-2]) == SHARDS[5:1:-2]
    assert columns.counts.tolist() == list(range(50))
    assert columns.sizes.tolist() == [2**62 + i for i in range(50)]
    with pytest.raises(IndexError):
        columns[50]


def test_shards_are_written_as_the_json_of_their_values(tmp_path):
    for lists in ([], [SHARDS], [SHARDS[:3], [], SHARDS[5:]]):
        write_shards(tmp_path / "all.json", map(ShardList, lists))
        values = json.loads((tmp_path / "all.json").read_text())
        assert values == [dataclasses.asdict(shard) for shards in lists for shard in shards]


def test_a_shard_is_found_by_its_name():
    columns = ShardList(SHARDS)
    assert [columns.named(shard.name) for shard in SHARDS] == SHARDS
    for name in ("train-0.tar", "", "träin-50.tar"):
        with pytest.raises(KeyError):
            columns.named(name)


def test_a_shard_takes_little_memory():
    tracemalloc.start()
    columns = ShardList(SHARDS[i % 50] for i in range(10))
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(200):
        columns.extend([dataclasses.asdict(shard) for shard in SHARDS])
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken / 10_000 < 130


def write_manifest(folder, entries, **also):
    value = {"splits": {"train": entries}, "format": FORMAT, **also}
    (folder / "manifest.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", None),
        ("name", "\ud800.tar"),
        ("bytes", "12"),
        ("bytes", 2**63),
        ("samples", 1.5),
        ("samples", -1),
        ("samples", 2**40),
        ("sha256", "0" * 62),
        ("sha256", "0" * 63),
        ("sha256", "0" * 62 + " 0"),
        ("index_sha256", "AB" * 32),
        ("index_sha256", 5),
    ],
)
def test_a_wrong_entry_of_a_manifest_is_refused(tmp_path, key, value):
    shard = dataclasses.asdict(SHARDS[1])
    write_manifest(tmp_path, [shard])
    assert list(find_split(tmp_path, "train").shards) == SHARDS[1:2]
    for entry in ({**shard, key: value}, {k: v for k, v in shard.items() if k != key}, "shard"):
        write_manifest(tmp_path, [dataclasses.asdict(SHARDS[2]), entry])
        with pytest.raises(UserError, match="lacks an entry, or has a wrong one"):
            read_splits(tmp_path)


@pytest.mark.parametrize("entries", [{}, None, "train", 7])
def test_a_split_that_is_no_list_is_refused(tmp_path, entries):
    write_manifest(tmp_path, entries)
    with pytest.raises(UserError, match="lacks an entry, or has a wrong one"):
        read_splits(tmp_path)


def test_a_remote_manifest_comes_in_pieces_of_one_file(tmp_path, monkeypatch):
    class Replacing(HttpStore):
        def read(self, name, offset, size):
            data = super().read(name, offset, size)
            if offset:
                write_manifest(tmp_path, [*entries, entries[0]])
            return data

    entries = [dataclasses.asdict(shard) for shard in SHARDS]
    monkeypatch.setattr("dvae.data.storage.PIECE", 3000)
    with serving(tmp_path) as server:
        write_manifest(tmp_path, entries)
        assert list(find_split(HttpStore(server.url), "train").shards) == SHARDS
        assert len(server.seen) > 4
        with pytest.raises(StoreError, match=r"manifest\.json was replaced while it was read"):
            read_splits(Replacing(server.url))


def test_a_shard_that_is_named_twice_is_refused(tmp_path):
    write_manifest(tmp_path, [dataclasses.asdict(SHARDS[i]) for i in (3, 1, 3)])
    with pytest.raises(UserError, match="names a shard twice"):
        read_splits(tmp_path)
