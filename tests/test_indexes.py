"""Indexes in memory: bounded by bytes, and never believed unchecked."""

import hashlib
from functools import partial

import numpy as np
import pytest

from dvae.data.index import SAMPLE, read_index, write_index
from dvae.data.indexes import RUN, Indexes
from dvae.data.manifest import Split
from dvae.data.shard_list import Shard, ShardList
from dvae.data.storage import LocalStore
from dvae.errors import DataError

ROWS, SHARDS = 2 * RUN + 22, 6


class Counting(LocalStore):
    """A folder that counts what is read of it."""

    wholes = reads = bytes = 0

    def read_whole(self, name, limit):
        self.wholes += 1
        return super().read_whole(name, limit)

    def read(self, name, offset, size):
        self.reads += 1
        self.bytes += size
        return super().read(name, offset, size)


@pytest.fixture
def split(tmp_path):
    """Shards of which only the indexes are there."""
    rng = np.random.default_rng(0)
    shards = []
    for number in range(SHARDS):
        rows = np.zeros(ROWS, dtype=SAMPLE)
        rows["offset"], rows["size"] = rng.integers(512, 10**6, (2, ROWS))
        name = f"train-{number:06}"
        digest = write_index(tmp_path / f"{name}.index.npy", rows)
        shards.append(Shard(f"{name}.tar", 10**7, hashlib.sha256().hexdigest(), ROWS, digest))
    store = Counting(tmp_path)
    return Split(store, store, "train", ShardList(shards))


def indexes_of(split, kept):
    """Its indexes, with room for so many in memory."""
    return Indexes(lambda number: (split, split.shards[number]), kept * ROWS * SAMPLE.itemsize)


def test_each_index_is_read_whole_once_and_then_only_the_rows_that_are_wanted(split):
    indexes = indexes_of(split, kept=2)
    expected = [read_index(split.store, shard)["offset"] for shard in split.shards]
    split.store.wholes = 0
    places = np.random.default_rng(1).permutation(SHARDS * ROWS).tolist()
    for number, place in (divmod(place, ROWS) for place in places):
        assert indexes.row(number, place).picture.offset == expected[number][place]
        known = [n for n in range(SHARDS) if indexes.known(n, 0)]
        assert len(known) <= 2
    assert split.store.wholes == SHARDS
    assert split.store.bytes <= len(places) * RUN * SAMPLE.itemsize


def test_windows_of_an_index_that_was_let_go_read_their_runs_in_one_piece(split):
    indexes = indexes_of(split, kept=1)
    expected = [read_index(split.store, shard) for shard in split.shards]
    for number in range(SHARDS):
        indexes.some(number, 0, 1)
    split.store.wholes = 0
    for start, count in ((0, 32), (RUN - 2, 5), (3, ROWS - 3), (ROWS - 1, 1)):
        split.store.reads = split.store.bytes = 0
        rows = indexes.some(0, start, count)
        assert np.array_equal(rows, expected[0][start : start + count])
        assert split.store.reads == 1
        assert split.store.bytes <= (count + 2 * RUN) * SAMPLE.itemsize
    assert split.store.wholes == 0


def test_an_index_larger_than_the_memory_is_kept_alone(split):
    indexes = indexes_of(split, kept=0)
    for number in (0, 1, 0, 1):
        indexes.row(number, 5)
    assert split.store.wholes == 2
    assert [bool(indexes.known(number, 5)) for number in (0, 1)] == [False, True]


@pytest.mark.parametrize("place", [0, RUN, ROWS - 1])
def test_an_index_that_changes_after_it_was_let_go_is_refused(split, place):
    indexes = indexes_of(split, kept=1)
    before = indexes.row(0, place)
    indexes.row(1, 0)
    path = split.folder / split.shards[0].index_name
    data = bytearray(path.read_bytes())
    at = len(data) - (ROWS - place) * SAMPLE.itemsize
    data[at] ^= 1
    with path.open("r+b") as file:  # in place, so that whoever has it open sees it
        file.write(data)
    for read in (indexes.row, partial(indexes.some, count=1)):
        with pytest.raises(DataError, match="is not the index that manifest.json names"):
            read(0, place)
    data[at] ^= 1
    path.write_bytes(data)
    assert indexes.row(0, place) == before


def test_an_index_that_is_lost_after_it_was_let_go_is_told_with_the_remedy(split):
    indexes = indexes_of(split, kept=1)
    indexes.row(0, 0)
    indexes.row(1, 0)
    (split.folder / split.shards[0].index_name).unlink()
    with pytest.raises(DataError, match=r"train-000000.index.npy is missing: run python -m"):
        indexes.row(0, 0)
