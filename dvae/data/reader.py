"""A picture's bytes, by its sample id, from shards wherever they lie.

Reads through offsets, never by walking the tar, so a damaged header can't hide what follows it, and
checks every picture's header and bytes, so a damaged one can't reach the network. Of remote shards
what is asked for ahead comes by one request for a run of consecutive samples (`windows`).
"""

import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from isal.isal_zlib import crc32

from dvae.data.catalog import Catalog
from dvae.data.formats import MAX_BYTES, MAX_JSON_BYTES
from dvae.data.index import Extent, Row, row_of, tell_missing
from dvae.data.manifest import Split
from dvae.data.order import Span
from dvae.data.storage import StoreError
from dvae.data.tar_header import BLOCK, is_whole
from dvae.data.windows import Windows
from dvae.errors import DataError

MAX_SPAN = 1 << 30  # bytes of one request; only an index that lies asks for more
HEADERS = 4096  # of the pictures that came last, kept to name those that can't be decoded


class BadSample(Exception):  # noqa: N818 - an outcome that is counted, not an error that ends a run
    """A sample that can't be used, with the reason."""


class Picture(NamedTuple):
    """The bytes of one image member."""

    data: bytes | memoryview  # read-only
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
    extent: Extent
    orientation: int
    block: bytes


class Reader:
    """Samples of one or several splits, one after another; safe to use from several threads.

    Args:
        splits: of the samples.
        verify: check every picture's header and bytes.
        skip: where shards are missing, cut or lack their index, what isn't there is a bad sample.

    Raises:
        DataError: shards are missing or have another size than the manifest says.
    """

    def __init__(self, *splits: Split, verify: bool = True, skip: bool = False) -> None:
        self.lacks = [told for told in map(tell_missing, splits) if told]  # a line for each split
        if self.lacks and not skip:
            raise DataError(f"{self.lacks[0]}: copy them again, or pack anew")
        self.splits = splits
        self.verify = verify
        self._skip = skip
        self.is_remote = any(split.tars.is_remote for split in splits)
        self._catalog = Catalog(*splits)
        self._headers: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()
        self.windows = Windows(self._fetch, self._bytes_of)

    def __len__(self) -> int:
        return len(self._catalog)

    def picture(self, sample: int) -> Picture:
        """The picture of a sample id.

        Raises:
            BadSample: it can't be read, is cut short, or isn't what was packed.
        """
        member = self._taken(sample) if self.is_remote else self._picture(sample)
        return Picture(self._checked(member), member.orientation)

    def about(self, sample: int) -> dict[str, Any]:
        """The JSON member of a sample, {} where it has none or a damaged one.

        A member that holds a class or a text instead becomes {"label": TEXT}.
        """
        try:
            number, row = self._row(sample)
            data = bytes(self._checked(self._read(number, row.json, 1, MAX_JSON_BYTES))) or b"{}"
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
        number = self._catalog.shard_of(sample)
        split, shard = self._catalog.shard(number)
        with self._lock:
            header = self._headers.get(sample, b"?")
        rows = self._catalog
        try:
            row = (rows.known_row if split.tars.is_remote else rows.row)(number, sample)
        except DataError:
            row = None
        offset = row.picture.offset if row else 0
        if row and not split.tars.is_remote:
            try:
                header = split.tars.read(shard.name, offset - BLOCK, 100)
            except StoreError:
                header = b"?"
        key = header.split(b"\0")[0].decode("utf-8", "backslashreplace")
        return Place(self.shard(sample), key.rsplit("/", 1)[-1].split(".")[0], offset)

    def shard(self, sample: int) -> str:
        """The name of a sample's shard; nothing is read."""
        split, shard = self._catalog.shard(self._catalog.shard_of(sample))
        return shard.name if len(self.splits) == 1 else f"{split.tars.shown}/{shard.name}"

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
                end = self._catalog.first(self._catalog.shard_of(sample) + 1)
        return spans

    def remote(self, spans: Iterable[Span]) -> list[Span]:
        """Those of some spans that lie in remote shards."""
        return [
            s
            for s in spans
            if self._catalog.shard(self._catalog.shard_of(s.first))[0].tars.is_remote
        ]

    def _taken(self, sample: int) -> _Member:
        """A picture that was fetched ahead, or is fetched now."""
        try:
            member = self.windows.take(sample)
        except DataError as error:
            raise BadSample(str(error)) from None
        member = member or self._picture(sample)
        with self._lock:
            self._headers[sample] = member.block[:100]
            if len(self._headers) > HEADERS:
                self._headers.popitem(last=False)
        return member

    def _fetch(self, span: Span) -> list[_Member]:
        """The pictures of a span by one request: from the first header to the last picture's end."""
        number = self._catalog.shard_of(span.first)
        split, shard = self._catalog.shard(number)
        rows = self._catalog.some_rows(number, span)
        begin = max(0, int(rows["offset"].min()) - BLOCK)
        end = int((rows["offset"] + rows["size"]).max())
        if not rows["size"].sum() <= end - begin <= MAX_SPAN:
            raise DataError(f"{span.samples} samples of {shard.name} can't be read by one request")
        data = split.tars.read(shard.name, begin, end - begin)
        members = []
        for row in (row_of(rows, place) for place in range(span.samples)):
            at = row.picture.offset - BLOCK - begin
            block = data[max(0, at) : at + BLOCK + row.picture.size]
            members.append(_Member(number, row.picture, row.orientation, block))
        return members

    def _bytes_of(self, span: Span) -> float:
        _, shard = self._catalog.shard(self._catalog.shard_of(span.first))
        return shard.bytes * span.samples / shard.samples

    def _row(self, sample: int) -> tuple[int, Row]:
        """The number of a sample's shard, and its row there."""
        number = self._catalog.shard_of(sample)
        try:
            return number, self._catalog.row(number, sample)
        except DataError as error:
            if not (self.is_remote or self._skip):
                raise
            raise BadSample(str(error)) from None

    def _picture(self, sample: int) -> _Member:
        number, row = self._row(sample)
        return self._read(number, row.picture, row.orientation, MAX_BYTES)

    def _read(self, number: int, extent: Extent, orientation: int, largest: int) -> _Member:
        """A member by a request of its own; without a size it has no bytes."""
        if extent.size > largest:
            raise BadSample(f"its {extent.size} bytes are more than {largest}")
        block = self._block(number, extent) if extent.size else b""
        return _Member(number, extent, orientation, block)

    def _block(self, number: int, extent: Extent, again: bool = False) -> bytes:
        """A member's header and bytes."""
        split, shard = self._catalog.shard(number)
        if extent.offset < BLOCK:
            raise BadSample("its place in the index leaves no room for a header")
        read = split.tars.reread if again else split.tars.read
        try:
            return read(shard.name, extent.offset - BLOCK, BLOCK + extent.size)
        except StoreError as error:
            raise BadSample(str(error)) from None

    def _checked(self, member: _Member) -> memoryview:
        """A member's bytes, if they and the header are those that were packed."""
        wrong = self._wrong(member)
        if wrong and self.is_remote:  # it may have been damaged on its way
            member = member._replace(block=self._block(member.shard, member.extent, again=True))
            wrong = self._wrong(member)
        if wrong:
            raise BadSample(wrong)
        return memoryview(member.block)[BLOCK:]

    def _wrong(self, member: _Member) -> str:
        if not self.verify or not member.block:
            return ""
        if not is_whole(member.block[:BLOCK]):
            return "its header in the tar is damaged"
        if crc32(memoryview(member.block)[BLOCK:]) != member.extent.crc32:
            return "its bytes are not those that were packed (CRC-32 differs)"
        return ""
