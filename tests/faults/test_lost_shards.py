"""Rows 31 and 35 of the catalogue of faults: shards that are gone, go away, or are few."""

import os
import shutil

import numpy as np
import pytest

from dvae.data.manifest import find_split
from dvae.data.order import Order
from dvae.data.plans import training_plan
from dvae.data.reader import Reader
from dvae.errors import DataError
from tests.faults.shard_files import make_shards, read_all

SHARD = "train-000001.tar"  # of samples 4 … 7


@pytest.fixture
def folder(tmp_path):
    return make_shards(tmp_path / "shards")


def test_missing_shards_end_the_run_at_its_start_and_five_are_named(tmp_path):
    folder = make_shards(tmp_path / "shards", shards=8)
    for number in range(6):
        (folder / f"train-{number:06d}.tar").unlink()
    (folder / "train-000007.index.npy").unlink()
    with pytest.raises(DataError) as raised:
        Reader(find_split(folder, "train"))
    text = str(raised.value)
    assert text.startswith("7 files of 8 shards are not what")
    assert all(f"train-{number:06d}.tar is missing; " in text for number in range(4))
    assert "train-000004.tar is missing …: copy them again" in text


@pytest.mark.parametrize("instead", ["nothing", "a FIFO", "a folder"])
def test_a_shard_that_goes_away_under_way_is_counted_and_never_waited_for(folder, instead):
    reader = Reader(find_split(folder, "train"))
    (folder / SHARD).unlink()
    if instead == "a FIFO":
        os.mkfifo(folder / SHARD)
    elif instead == "a folder":
        (folder / SHARD).mkdir()
    read = read_all(folder, reader=reader)
    assert sorted(read.bad) == [4, 5, 6, 7]
    assert all("reading it failed" in bad.reason for bad in read.bad.values())
    if instead != "nothing":
        with pytest.raises(DataError, match=f"{SHARD} is missing"):
            Reader(*reader.splits)


def test_a_shard_replaced_by_other_pictures_is_found_by_their_checksums(folder, tmp_path):
    other = make_shards(tmp_path / "other", shards=4)
    shutil.copy(other / "train-000003.tar", folder / SHARD)
    read = read_all(folder)
    assert sorted(read.bad) == [4, 5, 6, 7]
    assert all("not those that were packed" in bad.reason for bad in read.bad.values())


@pytest.mark.parametrize(("shards", "world_size"), [(1, 3), (1, 4), (7, 4)])
def test_fewer_shards_than_processes_give_all_as_many_steps(tmp_path, shards, world_size):
    folder = make_shards(tmp_path / "shards", shards=shards)
    assert len(read_all(folder, world_size).delivered) == 4 * shards
    order = Order(find_split(folder, "train").counts, 0, world_size)
    plans = [training_plan(order, 0, rank, world_size) for rank in range(world_size)]
    steps = [[next(plan).ids for plan in plans] for _ in range(order.steps_per_epoch)]
    assert all(len(ids) == 1 for step in steps for ids in step)
    seen = np.concatenate([ids for step in steps for ids in step]).tolist()
    assert len(set(seen)) == len(seen) > 4 * shards - world_size
