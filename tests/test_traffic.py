"""What the plan says that processes read is what they would read, window by window."""

import numpy as np
import pytest

from dvae.data.index import SAMPLE
from dvae.data.mixture import Mixture
from dvae.data.order import Order
from dvae.data.traffic import INDEX_HEADER, lane_traffic, open_windows, process_traffic

COUNTS = [
    np.array([400]),
    np.array([100, 37, 250, 13]),
    np.array([0, 5, 0, 90, 3, 0]),
    np.random.default_rng(1).integers(0, 30, 40),
]


def read_for(order, sizes, ids):
    """Bytes, requests and index bytes of a lane, by going through its samples."""
    ends = np.cumsum(order.counts)
    shards = np.searchsorted(ends, ids, side="right")
    read = sum(sizes[shard] / order.counts[shard] for shard in shards)
    requests = 0
    for start in range(0, len(ids), order.window):
        window = sorted(zip(ids[start : start + order.window], shards[start:], strict=False))
        # Samples that aren't neighbours in one shard need a request of their own.
        gaps = [b[0] - a[0] > 1 or b[1] != a[1] for a, b in zip(window, window[1:], strict=False)]
        requests += 1 + sum(gaps)
    index = sum(INDEX_HEADER + order.counts[s] * SAMPLE.itemsize for s in set(shards.tolist()))
    return read, requests, index


@pytest.mark.parametrize("counts", COUNTS, ids=lambda c: str(len(c)))
@pytest.mark.parametrize("window", [1, 7, 64])
@pytest.mark.parametrize("batch_size", [2, 6, 16])
def test_a_lane_reads_what_its_windows_hold(counts, window, batch_size):
    rng = np.random.default_rng(0)
    sizes = counts * rng.integers(1000, 3000, len(counts))
    order = Order(counts, 3, batch_size, window)
    traffic = lane_traffic(order, 0, sizes)
    lanes = np.stack([order.ids(0, step) for step in range(order.steps_per_epoch)], axis=1)
    for slot in range(batch_size):
        read, requests, index = read_for(order, sizes, lanes[slot].tolist())
        assert traffic.bytes[slot] == pytest.approx(read)
        assert traffic.requests[slot] == requests
        assert traffic.index_bytes[slot] == index


def test_all_processes_together_read_every_byte_but_those_that_wait_once():
    counts = COUNTS[1]
    order = Order(counts, 3, 16, 8)
    whole = process_traffic(order, [counts * 1000], 1)
    assert whole.bytes[0] == 1000 * 16 * order.steps_per_epoch
    shared = process_traffic(order, [counts * 1000], 4)
    assert shared.bytes.tolist() == [1000 * 4 * order.steps_per_epoch] * 4


@pytest.mark.parametrize("window", [0, 4])
def test_a_mixture_reads_its_sources_by_their_shares(window):
    counts = [COUNTS[0], COUNTS[1]]
    source = Mixture("ab", counts, (3.0, 1.0), 3, 12, window)
    traffic = process_traffic(source, [counts[0] * 1000, counts[1] * 2000], 3)
    drawn = source.drawn(source.steps_per_epoch)
    expected = drawn[0] * 1000 + drawn[1] * 2000
    assert traffic.bytes.sum() == pytest.approx(expected, rel=0.01)
    slots = [source.slots_of(i) // 4 for i in range(2)]
    for rank in range(3):
        share = [(owners == rank).mean() for owners in slots]
        mine = share[0] * drawn[0] * 1000 + share[1] * drawn[1] * 2000
        assert traffic.bytes[rank] == pytest.approx(mine, rel=0.02)


SOURCES = [
    Order(COUNTS[1], 3, 12, 8),
    Order(COUNTS[1], 3, 12, 64),  # longer than an epoch
    Mixture("ab", [COUNTS[0], COUNTS[1]], (2.0, 1.0), 3, 12, 4),
]


@pytest.mark.parametrize("source", SOURCES, ids=["order", "short epoch", "mixture"])
def test_no_process_is_inside_of_more_windows_than_the_plan_says_and_one_of_as_many(source):
    counts = list(source.counts) if isinstance(source, Mixture) else [source.counts]
    told = open_windows(source, [counts[0] * 1000, *(c * 2000 for c in counts[1:])], 3)
    for rank in range(3):
        slots, held = np.arange(rank * 4, rank * 4 + 4), []
        for step in range(2 * source.round_steps * source.window):
            spans = source.entered(step, slots, also_open=True)
            held.append(sum(n * (1000 if first < counts[0].sum() else 2000) for first, n in spans))
        assert max(held) == pytest.approx(told[rank])
