"""The indexes of shards in memory, as many as there is room for; each is checked whole once.

Of an index that was let go a CRC-32 stays for each run of 64 rows: when rows of it are wanted, their
runs alone are read again. A full permutation of many shards wants rows in no order.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import numpy as np
from isal.isal_zlib import crc32

from dvae.data.index import HEADER, SAMPLE, Row, read_index, row_of
from dvae.data.manifest import Shard, Split
from dvae.data.storage import StoreError

MEMORY = 64 << 20  # bytes of indexes that are kept: 1.5 million rows
RUN = 64  # rows that are read and checked together once their index was let go
LOADING = 16  # indexes that are loaded at a time


class Indexes:
    """Rows of numbered shards; safe to use from several threads.

    Everything raises `DataError` where an index is missing or isn't the manifest's.

    Args:
        find: gives a shard by its number, and the split that it is of.
        memory: bytes of indexes that are kept.
    """

    def __init__(self, find: Callable[[int], tuple[Split, Shard]], memory: int = MEMORY) -> None:
        self._find = find
        self._memory = memory
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._held = 0  # bytes of them
        self._sums: dict[int, array[int]] = {}  # CRC-32 of each run of those that were checked
        self._lock = Lock()
        self._loading = [Lock() for _ in range(LOADING)]

    def row(self, number: int, place: int) -> Row:
        """One row of a shard's index."""
        rows = self._kept.get(number)
        if rows is None:
            return row_of(self.some(number, place, 1), 0)
        return row_of(rows, place)

    def some(self, number: int, start: int, count: int) -> np.ndarray:
        """(count,) `SAMPLE` rows of a shard's index, from `start` on."""
        rows = self._kept.get(number)
        if rows is None:
            first, inside = divmod(start, RUN)
            runs = self._runs(number, first, -(-(start + count) // RUN))
            if runs is not None:
                return runs[inside : inside + count]
            rows = self.whole(number)
        return rows[start : start + count]

    def known(self, number: int, place: int) -> Row | None:
        """The same row if the index is in memory."""
        rows = self._kept.get(number)
        return None if rows is None else row_of(rows, place)

    def whole(self, number: int) -> np.ndarray:
        """The (n,) `SAMPLE` rows of a shard."""
        rows = self._kept.get(number)
        if rows is None:
            with self._loading[number % len(self._loading)]:  # one thread loads, the others wait
                rows = self._kept.get(number)
                if rows is None:
                    split, shard = self._find(number)
                    rows = read_index(split.store, shard)
                    self._keep(number, rows)
        return rows

    def _runs(self, number: int, first: int, end: int) -> np.ndarray | None:
        """Runs of rows of an index that was let go; None where they're not what was checked."""
        sums = self._sums.get(number)
        if sums is None:
            return None
        split, shard = self._find(number)
        count = min(end * RUN, shard.samples) - first * RUN
        start = HEADER + first * RUN * SAMPLE.itemsize
        try:
            data = split.store.read(shard.index_name, start, count * SAMPLE.itemsize)
        except StoreError:
            if split.store.is_remote:
                raise
            return None  # reading it whole says what to do
        rows = np.frombuffer(data, SAMPLE)
        return rows if _sums(rows) == sums[first:end] else None

    def _keep(self, number: int, rows: np.ndarray) -> None:
        self._sums[number] = _sums(rows)
        with self._lock:
            self._kept[number] = rows
            self._held += rows.nbytes
            while self._held > self._memory and len(self._kept) > 1:
                self._held -= self._kept.popitem(last=False)[1].nbytes


def _sums(rows: np.ndarray) -> "array[int]":
    """The CRC-32 of each run of rows."""
    return array("I", (crc32(rows[at : at + RUN]) for at in range(0, len(rows), RUN)))
