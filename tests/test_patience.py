"""How long a remote read is tried, and how: from the byte where it broke, as the server wishes."""

import dataclasses
import time
from email.utils import formatdate

import pytest

from dvae.data.http import HttpStore
from dvae.data.patience import Patience
from dvae.data.storage import StoreError
from tests.fault_server import serving
from tests.faults.shard_files import make_shards

HASTY = Patience(total=8, connect=4, silence=4, first_pause=0.002, longest_pause=0.01)
WILLING = dataclasses.replace(HASTY, longest_pause=30)  # to wait as long as a server wishes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("served") / "data", shards=1)


def read_whole_tar(folder, server, patience):
    data = (folder / server.victim).read_bytes()
    store = HttpStore(f"{server.url}/data", patience)
    assert store.read(server.victim, 512, len(data) - 512) == data[512:]
    return len(data)


def test_a_read_goes_on_at_the_byte_where_it_broke(folder):
    with serving(folder, "short body") as server:
        server.chance = 1  # of each range, once
        size = read_whole_tar(folder, server, HASTY)
        starts = [start for _, start, _ in server.ranges]
        assert len(starts) > 2
        assert starts == sorted(starts)
        assert server.bytes[server.victim] == size - 512  # not one came twice


@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_a_server_that_asks_for_more_time_than_there_is_is_not_asked_again(folder, kind):
    wish = "20" if kind == "seconds" else formatdate(time.time() + 60, usegmt=True)
    with serving(folder, "503 with Retry-After") as server:
        server.chance, server.retry_after = 1, wish
        with pytest.raises(StoreError, match=r"answers 503 \(0 of 9000 bytes came\); gave up"):
            HttpStore(f"{server.url}/data", WILLING).read(server.victim, 0, 9000)
        assert len(server.ranges) == 1


@pytest.mark.parametrize("wish", ["0", formatdate(0, usegmt=True), "soon", "-5", "9" * 5000, ""])
def test_a_wish_that_is_over_or_cannot_be_understood_costs_an_ordinary_pause(folder, wish):
    with serving(folder, "503 with Retry-After") as server:
        server.chance, server.retry_after = 1, wish
        read_whole_tar(folder, server, WILLING)
        assert len(server.ranges) == 2


def test_pauses_grow_are_drawn_and_follow_a_wish_up_to_a_limit():
    patience = Patience(first_pause=0.5, longest_pause=30.0)
    assert 0.25 <= patience.pause(1, 0) <= 0.5
    assert patience.pause(1, 5) == 5
    assert patience.pause(1, 3600) == 30
    drawn = {patience.pause(40, 0) for _ in range(20)}
    assert len(drawn) > 10
    assert 15 <= min(drawn) < max(drawn) <= 30


def test_the_patience_of_a_read_ends_although_bytes_still_trickle(folder):
    with serving(folder, "1 KB/s") as server:
        server.is_armed = True
        store = HttpStore(f"{server.url}/data", dataclasses.replace(HASTY, total=1))
        with pytest.raises(StoreError, match=r"it is too slow \(\d+ of 9000 bytes came\); gave up"):
            store.read(server.victim, 0, 9000)
