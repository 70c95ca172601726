"""Which shard a sample id is in, and its row there, over the shards of one or several splits.

Indexes are read when they are wanted, once, and the ones read first are let go: with a million shards
they would not fit.
"""

import bisect
from collections import OrderedDict
from threading import Lock

import numpy as np

from dvae.data.index import Row, read_index, row_of
from dvae.data.manifest import Shard, Split
from dvae.data.order import Span

OPEN_INDEXES = 512  # kept in memory; a process reads in about as many shards as it has slots
LOADING = 16  # of them at a time


class Catalog:
    """The shards of splits, one after another, numbered from 0; safe to use from several threads.

    What reads an index raises `DataError` where that is missing or wrong.
    """

    def __init__(self, *splits: Split) -> None:
        counts = np.concatenate([split.counts for split in splits])
        self._splits = splits
        self._first = [0, *np.cumsum(counts).tolist()]
        self._first_shard = [0, *np.cumsum([len(split.shards) for split in splits]).tolist()]
        self._rows: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = Lock()
        self._loading = [Lock() for _ in range(LOADING)]

    def __len__(self) -> int:
        return int(self._first[-1])

    def shard_of(self, sample: int) -> int:
        """The number of the shard that holds a sample id."""
        return bisect.bisect_right(self._first, sample) - 1

    def shard(self, number: int) -> tuple[Split, Shard]:
        """A shard by its number, and the split that it is of."""
        which = bisect.bisect_right(self._first_shard, number) - 1
        split = self._splits[which]
        return split, split.shards[number - self._first_shard[which]]

    def first(self, number: int) -> int:
        """The id of a shard's first sample."""
        return self._first[number]

    def row(self, number: int, sample: int) -> Row:
        """The row of a sample id in its shard."""
        return row_of(self._index(number), sample - self._first[number])

    def some_rows(self, number: int, span: Span) -> np.ndarray:
        """The (n,) `SAMPLE` rows of a span of its samples."""
        start = span.first - self._first[number]
        return self._index(number)[start : start + span.samples]

    def known_row(self, number: int, sample: int) -> Row | None:
        """The row of a sample id if its shard's index is in memory."""
        rows = self._rows.get(number)
        return None if rows is None else row_of(rows, sample - self._first[number])

    def _index(self, number: int) -> np.ndarray:
        rows = self._rows.get(number)
        if rows is None:
            with self._loading[number % len(self._loading)]:  # one thread loads, the others wait
                rows = self._rows.get(number)
                if rows is None:
                    split, shard = self.shard(number)
                    rows = read_index(split.store, shard)
                self._keep(number, rows)
        return rows

    def _keep(self, number: int, rows: np.ndarray) -> None:
        with self._lock:
            self._rows[number] = rows
            if len(self._rows) > OPEN_INDEXES:
                self._rows.popitem(last=False)
