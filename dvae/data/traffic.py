"""How many bytes each process reads in an epoch, worked out from the plan without reading any.

Assumed: with a window, each window is one range request for each shard that it touches, from the
first header to the last byte of its samples, so the JSON and the padding between them count; the
samples of a shard are equally long. The index of a shard is read once for each lane that passes
through it, which a cache can only lower. Without a window each sample is a request of its own, every
process gets its share of the mean, and indexes aren't counted: each process needs all of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dvae.data.index import SAMPLE
from dvae.data.mixture import Mixture
from dvae.data.order import Line, Order

INDEX_HEADER = 128  # bytes


class Traffic(NamedTuple):
    """What each of W processes reads in an epoch: (W,) float64."""

    bytes: np.ndarray  # of the shards
    requests: np.ndarray  # for them
    index_bytes: np.ndarray  # of the shards' indexes


def process_traffic(
    source: Order | Mixture, sizes: Sequence[np.ndarray], world_size: int
) -> Traffic:
    """What each process reads in an epoch of a source.

    Args:
        source: the order of the samples.
        sizes: (S_i,) bytes of each shard, for each split that the source draws from.
        world_size: W, which divides the global batch.
    """
    total = Traffic(*np.zeros((3, world_size)))
    for (order, owners), size in zip(_orders(source, world_size), sizes, strict=True):
        passes = 1.0
        if isinstance(source, Mixture):
            passes = source.steps_per_epoch * source.batch_size / source.places
            passes /= order.steps_per_epoch
        one = _gather(lane_traffic(order, 0, size), owners, world_size)
        total = Traffic(*(a + passes * b for a, b in zip(total, one, strict=True)))
    return total


def open_windows(
    source: Order | Mixture, sizes: Sequence[np.ndarray], world_size: int
) -> np.ndarray:
    """(W,) bytes of the windows that each process's slots are inside of at a time, at most."""
    total = np.zeros(world_size)
    for (order, owners), size in zip(_orders(source, world_size), sizes, strict=True):
        window = min(order.window, order.steps_per_epoch) * size.sum() / order.samples
        total += window * np.bincount(owners, minlength=world_size)
    return total


def _orders(source: Order | Mixture, world_size: int) -> list[tuple[Order, np.ndarray]]:
    """The order of each split of a source, and the process that owns each of its lanes."""
    share = source.batch_size // world_size
    if isinstance(source, Order):
        return [(source, np.arange(source.batch_size) // share)]
    return [(order, source.slots_of(i) // share) for i, order in enumerate(source.orders)]


def lane_traffic(order: Order, epoch: int, sizes: np.ndarray) -> Traffic:
    """What each lane (each slot of the batch) reads in an epoch: (B,)."""
    lanes, length = order.batch_size, order.steps_per_epoch
    if not order.window:
        each = length * sizes.sum() / order.samples
        return Traffic(*(np.full(lanes, value) for value in (each, float(length), 0.0)))
    line = order.line(epoch)
    starts = line.rotation + length * np.arange(lanes)
    before, after = (_bytes_before(p, line, sizes) for p in (starts, starts + length))
    windows = -(-length // order.window) + _cuts(order, line.ends - line.rotation)
    return Traffic(after - before, windows, _index_bytes(order, line, starts))


def _index_bytes(order: Order, line: Line, starts: np.ndarray) -> np.ndarray:
    """(B,) of all shards that each lane touches."""
    counts = order.counts[line.shards]
    sizes = np.where(counts > 0, INDEX_HEADER + counts * SAMPLE.itemsize, 0)
    stops = starts + order.steps_per_epoch - 1
    first, last = (np.searchsorted(line.ends, p % order.samples, "right") for p in (starts, stops))
    sums = np.cumsum(sizes)
    rounds = stops // order.samples - starts // order.samples  # 1 where the lane passes the end
    again = (rounds > 0) & (first == last)  # it ends in the shard that it began in
    return sums[last] - sums[first] + sizes[first] * ~again + rounds * sums[-1]


def _bytes_before(places: np.ndarray, line: Line, sizes: np.ndarray) -> np.ndarray:
    """Bytes of the line before some places; beyond its end it goes on from its start."""
    rounds, inside = np.divmod(places, line.ends[-1])
    sums = np.concatenate([[0], np.cumsum(sizes[line.shards], dtype=np.float64)])
    return rounds * sums[-1] + np.interp(inside, np.concatenate([[0], line.ends]), sums)


def _cuts(order: Order, borders: np.ndarray) -> np.ndarray:
    """(B,) how many windows of each lane a border between two shards cuts, borders counted singly."""
    lane, place = np.divmod(np.unique(borders % order.samples), order.steps_per_epoch)
    inside = (place % order.window > 0) & (lane < order.batch_size)
    return np.bincount(lane[inside], minlength=order.batch_size)


def _gather(lanes: Traffic, owners: np.ndarray, world_size: int) -> Traffic:
    return Traffic(*(np.bincount(owners, weights, world_size) for weights in lanes))
