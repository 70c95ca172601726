"""What is fetched ahead of remote shards: each window by one request, each byte about once."""

import time
from itertools import islice

import numpy as np
import pytest

from dvae.data.ahead import evaluation_ahead, training_ahead
from dvae.data.http import HttpStore
from dvae.data.manifest import find_split
from dvae.data.order import Order
from dvae.data.plans import evaluation_plan, training_plan
from dvae.data.reader import Reader
from dvae.data.tar_header import BLOCK
from tests.fault_server import serving
from tests.faults.shard_files import make_shards
from tests.test_http import epoch

BATCH, STEPS = 4, 8  # of an epoch
SLOTS = np.arange(BATCH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """32 samples in 8 shards."""
    return make_shards(tmp_path_factory.mktemp("served") / "data", shards=8)


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as server:
        yield server


@pytest.fixture
def split(server):
    found = find_split(HttpStore(f"{server.url}/data"), "train")
    server.ranges.clear()
    return found


@pytest.fixture
def _no_further(monkeypatch):
    """Each step's windows are asked for when it is wanted, none of the next epoch's."""
    monkeypatch.setattr("dvae.data.ahead.TRAINING_STEPS", 0)


def of_tars(server):
    """The ranges of tars that were asked for, but for the byte that tells a size."""
    return [asked for asked in server.ranges if asked[0].endswith(".tar") and asked[2] > 1]


@pytest.mark.usefixtures("_no_further")
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("window", [4, 32])
def test_an_epoch_costs_a_request_a_window_and_every_byte_about_once(
    server, split, world_size, window
):
    order = Order(split.counts, 0, BATCH, window)
    seen = []
    for rank in range(world_size):
        reader = Reader(split)
        plan = training_ahead(reader, order, 0, rank, world_size)
        delivered, bad = epoch(reader, plan, STEPS, ahead=1)
        seen += delivered
        assert not bad
    total = sum(shard.bytes for shard in split.shards)
    asked = of_tars(server)
    spans = [span for step in range(STEPS) for span in order.entered(step, SLOTS)]
    assert sorted(seen) == list(range(32))
    assert len(asked) == len(spans) < 32
    assert 0.5 * total < sum(end - start for _, start, end in asked) <= 1.02 * total


@pytest.mark.usefixtures("_no_further")
@pytest.mark.parametrize("start", range(1, 8))
def test_a_run_that_goes_on_inside_its_windows_fetches_only_from_what_is_to_come(
    server, split, start
):
    order, reader = Order(split.counts, 0, BATCH, 8), Reader(split)
    delivered, bad = epoch(reader, training_ahead(reader, order, start, 0, 1), 8 - start, ahead=1)
    plan = islice(training_plan(order, start, 0, 1), 8 - start)
    to_come = {int(sample) for step in plan for sample in step.ids}
    assert (delivered.keys(), bad) == (to_come, {})
    spans = [range(first, first + count) for first, count in order.entered(0, SLOTS)]
    firsts = [min(left) for left in (to_come.intersection(span) for span in spans) if left]
    begins = [(reader.shard(first), reader.place(first).offset - BLOCK) for first in firsts]
    assert sorted(asked[:2] for asked in of_tars(server)) == sorted(begins)


def test_windows_of_later_steps_are_fetched_before_they_are_wanted(server, split, monkeypatch):
    monkeypatch.setattr("dvae.data.ahead.TRAINING_STEPS", 4)
    order, reader = Order(split.counts, 0, BATCH, 4), Reader(split)
    plan = training_ahead(reader, order, 0, 0, 1)
    assert next(plan).step == 0
    wanted = sum(len(order.entered(step, SLOTS)) for step in range(5))
    end = time.monotonic() + 20
    while len(of_tars(server)) < wanted and time.monotonic() < end:
        time.sleep(0.005)
    assert len(of_tars(server)) == wanted > len(order.entered(0, SLOTS))
    plan.close()


def test_an_evaluation_costs_one_request_a_shard(server, split):
    reader = Reader(split)
    plan = evaluation_ahead(reader, evaluation_plan(32, 16, 0, 1))
    delivered, _ = epoch(reader, plan, 2)
    assert len(delivered) == 32
    assert len(of_tars(server)) == 8
