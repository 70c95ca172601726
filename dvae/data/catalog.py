"""Which shard a sample id is in, and its row there, over the shards of one or several splits."""

import bisect
from array import array
from functools import lru_cache

import numpy as np

from dvae.data.index import Row
from dvae.data.indexes import Indexes
from dvae.data.manifest import Shard, Split
from dvae.data.order import Span

KNOWN_SHARDS = 4096  # what the manifest says of them, at hand


class Catalog:
    """The shards of splits, one after another, numbered from 0; safe to use from several threads.

    What reads an index raises `DataError` where that is missing or wrong.
    """

    def __init__(self, *splits: Split) -> None:
        counts = np.concatenate([split.counts for split in splits])
        self._splits = splits
        self._first = array("q", [0]) + array("q", np.cumsum(counts).tobytes())
        self._first_shard = [0, *np.cumsum([len(split.shards) for split in splits]).tolist()]
        self.shard = lru_cache(KNOWN_SHARDS)(self._shard)
        self._indexes = Indexes(self.shard)

    def __len__(self) -> int:
        return self._first[-1]

    def shard_of(self, sample: int) -> int:
        """The number of the shard that holds a sample id."""
        return bisect.bisect_right(self._first, sample) - 1

    def _shard(self, number: int) -> tuple[Split, Shard]:
        """A shard by its number, and the split that it is of."""
        which = bisect.bisect_right(self._first_shard, number) - 1
        split = self._splits[which]
        return split, split.shards[number - self._first_shard[which]]

    def first(self, number: int) -> int:
        """The id of a shard's first sample."""
        return self._first[number]

    def row(self, number: int, sample: int) -> Row:
        """The row of a sample id in its shard."""
        return self._indexes.row(number, sample - self._first[number])

    def some_rows(self, number: int, span: Span) -> np.ndarray:
        """The (n,) `SAMPLE` rows of a span of its samples."""
        start = span.first - self._first[number]
        return self._indexes.some(number, start, span.samples)

    def known_row(self, number: int, sample: int) -> Row | None:
        """The row of a sample id if its shard's index is in memory."""
        return self._indexes.known(number, sample - self._first[number])
