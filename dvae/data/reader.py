"""A picture's bytes, by its sample id, from shards wherever they lie.

Reads through offsets, never by walking the tar, so a damaged header can't hide what follows it, and
checks every picture's header and bytes, so a damaged one can't reach the network. Of remote shards
what is asked for ahead comes by one request for a run of consecutive samples (`windows`).
"""

import bisect
import json
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from dvae.data.formats import MAX_BYTES, MAX_JSON_BYTES
from dvae.data.index import missing_shards, read_index
from dvae.data.manifest import Shard, Split
from dvae.data.order import Span
from dvae.data.storage import StoreError
from dvae.data.tar_header import BLOCK, is_whole
from dvae.data.windows import Windows
from dvae.errors import DataError

OPEN_INDEXES = 512  # kept in memory; a process reads in about as many shards as it has slots
LOADING = 16  # of them at a time
MAX_SPAN = 1 << 30  # bytes of one request; only an index that lies asks for more
HEADERS = 4096  # of the pictures that came last, kept to name those that can't be decoded


class BadSample(Exception):  # noqa: N818 - an outcome that is counted, not an error that ends a run
    """A sample that can't be used, with the reason."""


@dataclass(frozen=True)
class Picture:
    """The bytes of one image member."""

    data: bytes
    orientation: int  # EXIF, 1 is upright


@dataclass(frozen=True)
class Place:
    """Where a sample lies: what a report names."""

    shard: str
    key: str
    offset: int  # bytes from the start of the tar to the picture


class _Member(NamedTuple):
    """Where a member lies, and its header and bytes as they came."""

    shard: int  # its number over all splits
    row: np.void
    block: bytes


class Reader:
    """Samples of one or several splits, one after another; safe to use from several threads.

    Raises:
        DataError: shards are missing or have another size than the manifest says.
    """

    def __init__(self, *splits: Split, verify: bool = True) -> None:
        for split in splits:
            _refuse_missing(split)
        self.splits = splits
        self.verify = verify
        self.is_remote = any(split.tars.is_remote for split in splits)
        counts = np.concatenate([split.counts for split in splits])
        self._first = [0, *np.cumsum(counts).tolist()]
        self._first_shard = [0, *np.cumsum([len(split.shards) for split in splits]).tolist()]
        self._rows: OrderedDict[int, np.ndarray] = OrderedDict()
        self._headers: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()
        self._loading = [Lock() for _ in range(LOADING)]
        self.windows = Windows(self._fetch, self._bytes_of)

    def __len__(self) -> int:
        return int(self._first[-1])

    def picture(self, sample: int) -> Picture:
        """The picture of a sample id.

        Raises:
            BadSample: it can't be read, is cut short, or isn't what was packed.
        """
        member = self._taken(sample) if self.is_remote else self._read(sample, "", MAX_BYTES)
        data = self._checked(member, "")
        return Picture(data, int(member.row["orientation"]))

    def about(self, sample: int) -> dict[str, Any]:
        """The JSON member of a sample, {} where it has none or a damaged one.

        A member that holds a class or a text instead becomes {"label": TEXT}.
        """
        try:
            data = self._checked(self._read(sample, "json_", MAX_JSON_BYTES), "json_") or b"{}"
        except BadSample:
            return {}
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = data.decode("utf-8", "replace")
        if isinstance(value, str | int):
            return {"label": str(value).strip()}
        return value if isinstance(value, dict) else {}

    def place(self, sample: int) -> Place:
        """The shard, key and offset of a sample, for a report; a remote one isn't asked again."""
        number = self._shard_of(sample)
        split, shard = self._shard(number)
        with self._lock:
            rows, header = self._rows.get(number), self._headers.get(sample, b"?")
        if not split.tars.is_remote:
            rows = self._index(number)
        offset = 0 if rows is None else int(rows[sample - self._first[number]]["offset"])
        if not split.tars.is_remote:
            try:
                header = split.tars.read(shard.name, offset - BLOCK, 100)
            except StoreError:
                header = b"?"
        key = header.split(b"\0")[0].decode("utf-8", "backslashreplace")
        name = shard.name if len(self.splits) == 1 else f"{split.tars.shown}/{shard.name}"
        return Place(name, key.rsplit("/", 1)[-1].split(".")[0], offset)

    def runs(self, ids: np.ndarray) -> list[Span]:
        """(n,) ascending sample ids as runs of consecutive ones, cut where shards end."""
        spans: list[Span] = []
        end = -1
        for sample in ids.tolist():
            last = spans[-1] if spans else None
            if last and sample == last.first + last.samples and sample < end:
                spans[-1] = Span(last.first, last.samples + 1)
            else:
                spans.append(Span(sample, 1))
                end = self._first[self._shard_of(sample) + 1]
        return spans

    def remote(self, spans: Iterable[Span]) -> list[Span]:
        """Those of some spans that lie in remote shards."""
        return [s for s in spans if self._shard(self._shard_of(s.first))[0].tars.is_remote]

    def _taken(self, sample: int) -> _Member:
        """A picture that was fetched ahead, or is fetched now."""
        try:
            member = self.windows.take(sample)
        except DataError as error:
            raise BadSample(str(error)) from None
        member = member or self._read(sample, "", MAX_BYTES)
        with self._lock:
            self._headers[sample] = member.block[:100]
            if len(self._headers) > HEADERS:
                self._headers.popitem(last=False)
        return member

    def _fetch(self, span: Span) -> list[_Member]:
        """The pictures of a span by one request: from the first header to the last picture's end."""
        number = self._shard_of(span.first)
        split, shard = self._shard(number)
        start = span.first - self._first[number]
        rows = self._index(number)[start : start + span.samples]
        begin = max(0, int(rows["offset"].min()) - BLOCK)
        end = int((rows["offset"] + rows["size"]).max())
        if not rows["size"].sum() <= end - begin <= MAX_SPAN:
            raise DataError(f"{span.samples} samples of {shard.name} can't be read by one request")
        data = split.tars.read(shard.name, begin, end - begin)
        places = zip((rows["offset"] - BLOCK).tolist(), rows["size"].tolist(), rows, strict=True)
        return [
            _Member(number, row, data[max(0, at - begin) : at - begin + BLOCK + size])
            for at, size, row in places
        ]

    def _bytes_of(self, span: Span) -> float:
        _, shard = self._shard(self._shard_of(span.first))
        return shard.bytes * span.samples / shard.samples

    def _read(self, sample: int, field: str, largest: int) -> _Member:
        """A member by a request of its own; without a size it has no bytes."""
        number = self._shard_of(sample)
        try:
            row = self._index(number)[sample - self._first[number]]
        except DataError as error:
            if not self.is_remote:
                raise
            raise BadSample(str(error)) from None
        size = int(row[f"{field}size"])
        if size > largest:
            raise BadSample(f"its {size} bytes are more than {largest}")
        return _Member(number, row, self._block(number, row, field) if size else b"")

    def _block(self, number: int, row: np.void, field: str, again: bool = False) -> bytes:
        """A member's header and bytes."""
        split, shard = self._shard(number)
        offset, size = int(row[f"{field}offset"]), int(row[f"{field}size"])
        if offset < BLOCK:
            raise BadSample("its place in the index leaves no room for a header")
        read = split.tars.reread if again else split.tars.read
        try:
            return read(shard.name, offset - BLOCK, BLOCK + size)
        except StoreError as error:
            raise BadSample(str(error)) from None

    def _checked(self, member: _Member, field: str) -> bytes:
        """A member's bytes, if they and the header are those that were packed."""
        wrong = self._wrong(member, field)
        if wrong and self.is_remote:  # it may have been damaged on its way
            block = self._block(member.shard, member.row, field, again=True)
            member = member._replace(block=block)
            wrong = self._wrong(member, field)
        if wrong:
            raise BadSample(wrong)
        return member.block[BLOCK:]

    def _wrong(self, member: _Member, field: str) -> str:
        if not self.verify or not member.block:
            return ""
        if not is_whole(member.block[:BLOCK]):
            return "its header in the tar is damaged"
        if zlib.crc32(memoryview(member.block)[BLOCK:]) != int(member.row[f"{field}crc32"]):
            return "its bytes are not those that were packed (CRC-32 differs)"
        return ""

    def _index(self, number: int) -> np.ndarray:
        """The rows of a shard."""
        with self._lock:
            rows = self._rows.get(number)
        if rows is None:
            with self._loading[number % len(self._loading)]:  # one thread loads, the others wait
                rows = self._rows.get(number)
                if rows is None:
                    split, shard = self._shard(number)
                    rows = read_index(split.store, shard)
                self._keep(number, rows)
        return rows

    def _keep(self, number: int, rows: np.ndarray) -> None:
        with self._lock:
            self._rows[number] = rows
            if len(self._rows) > OPEN_INDEXES:
                self._rows.popitem(last=False)

    def _shard_of(self, sample: int) -> int:
        return bisect.bisect_right(self._first, sample) - 1

    def _shard(self, number: int) -> tuple[Split, Shard]:
        """A shard by its number over all splits, and the split that it is of."""
        which = bisect.bisect_right(self._first_shard, number) - 1
        split = self.splits[which]
        return split, split.shards[number - self._first_shard[which]]


def _refuse_missing(split: Split) -> None:
    problems = missing_shards(split)
    if problems:
        shown = "; ".join(problems[:5]) + (" …" if len(problems) > 5 else "")
        raise DataError(
            f"{len(problems)} files of {len(split.shards)} shards are not what {split.store.shown}'s "
            f"manifest says: {shown}: copy them again, or pack anew"
        )
