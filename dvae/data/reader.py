"""A picture's bytes, by its sample id, from shards on a local disk.

Reads through offsets, never by walking the tar, so a damaged header can't hide what follows it, and
checks every picture's header and bytes, so a damaged one can't reach the network.
"""

import bisect
import errno
import json
import os
import resource
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from dvae.data.formats import MAX_BYTES, MAX_JSON_BYTES
from dvae.data.index import Shard, Split, missing_shards, read_index
from dvae.data.tar_header import BLOCK, is_whole
from dvae.errors import DataError

OPEN_FILES = 128  # shards kept open at a time


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


class _OpenFile:
    """A descriptor that is closed when the last thread that uses it lets go of it."""

    def __init__(self, path: Path) -> None:
        # Not blocking: a FIFO that took a shard's place must not hold a thread for ever.
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


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
        self._open_files = min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)
        counts = np.concatenate([split.counts for split in splits])
        self._first = [0, *np.cumsum(counts).tolist()]
        self._first_shard = [0, *np.cumsum([len(split.shards) for split in splits]).tolist()]
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._rows: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._first[-1])

    def picture(self, sample: int) -> Picture:
        """The picture of a sample id.

        Raises:
            BadSample: it can't be read, is cut short, or isn't what was packed.
        """
        shard, row = self._locate(sample)
        return Picture(self._member(shard, row, "", MAX_BYTES), int(row["orientation"]))

    def about(self, sample: int) -> dict[str, Any]:
        """The JSON member of a sample, {} where it has none or a damaged one.

        A member that holds a class or a text instead becomes {"label": TEXT}.
        """
        shard, row = self._locate(sample)
        try:
            data = self._member(shard, row, "json_", MAX_JSON_BYTES) or b"{}"
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
        """The shard, key and offset of a sample, for a report."""
        shard, row = self._locate(sample)
        offset = int(row["offset"])
        try:
            member = self._read(shard, offset - BLOCK, 100).split(b"\0")[0]
        except BadSample:
            member = b"?"
        key = member.decode("utf-8", "backslashreplace").rsplit("/", 1)[-1].split(".")[0]
        folder, named = self._shard(shard)
        name = named.name if len(self.splits) == 1 else str(folder / named.name)
        return Place(name, key, offset)

    def _locate(self, sample: int) -> tuple[int, np.void]:
        shard = bisect.bisect_right(self._first, sample) - 1
        with self._lock:
            rows = self._rows.get(shard)
        if rows is None:
            rows = read_index(*self._shard(shard))
        self._keep(self._rows, shard, rows)
        return shard, rows[sample - self._first[shard]]

    def _member(self, shard: int, row: np.void, field: str, largest: int) -> bytes:
        """A member's bytes, where the row's fields of that name say; checked."""
        offset, size = int(row[f"{field}offset"]), int(row[f"{field}size"])
        if size > largest:
            raise BadSample(f"its {size} bytes are more than {largest}")
        if self.verify and size and not is_whole(self._read(shard, offset - BLOCK, BLOCK)):
            raise BadSample("its header in the tar is damaged")
        data = self._read(shard, offset, size)
        if self.verify and zlib.crc32(data) != int(row[f"{field}crc32"]):
            raise BadSample("its bytes are not those that were packed (CRC-32 differs)")
        return data

    def _shard(self, number: int) -> tuple[Path, Shard]:
        """A shard by its number over all splits, and the folder that it lies in."""
        which = bisect.bisect_right(self._first_shard, number) - 1
        split = self.splits[which]
        return split.folder, split.shards[number - self._first_shard[which]]

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        try:
            with self._lock:
                opened = self._files.get(shard)
            if opened is None:
                folder, named = self._shard(shard)
                opened = _OpenFile(folder / named.name)
            self._keep(self._files, shard, opened)
            data = os.pread(opened.descriptor, size, offset)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # that's not the sample's fault
            raise BadSample(f"reading it failed: {error.strerror}") from None
        if len(data) != size:
            raise BadSample(f"{len(data)} of its {size} bytes are there: the shard was cut short")
        return data

    def _keep(self, cache: OrderedDict[int, Any], shard: int, value: Any) -> None:
        with self._lock:
            cache[shard] = value
            cache.move_to_end(shard)
            if len(cache) > max(self._open_files, 1):
                cache.popitem(last=False)


def _refuse_missing(split: Split) -> None:
    problems = missing_shards(split)
    if problems:
        shown = "; ".join(problems[:5]) + (" …" if len(problems) > 5 else "")
        raise DataError(
            f"{len(problems)} files of {len(split.shards)} shards are not what {split.folder}'s "
            f"manifest says: {shown}: copy them again, or pack anew"
        )
