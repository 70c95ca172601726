"""Writes the shards of one split: a tar and its offset index at a time, both whole or absent."""

import contextlib
import hashlib
import json
import struct
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from isal.isal_zlib import crc32

from dvae.data.index import SAMPLE, write_index
from dvae.data.shard_list import Shard, index_name
from dvae.failpoint import failpoint
from dvae.files import whole_file
from shards import tar
from shards.place import Place

_CHUNK = 1 << 20  # bytes that are written and hashed at once

Buffer = bytes | memoryview
Full = Callable[[], Shard]  # brings a full shard to the disk and to where it belongs


class Sample(NamedTuple):
    """What is written for one picture: its bytes, their extension and CRC-32, and its JSON."""

    data: bytes
    extension: str
    crc32: int
    note: bytes

    @property
    def blocks(self) -> int:
        """Bytes that it takes in a tar."""
        return tar.padded(len(self.data)) + tar.padded(len(self.note)) + 2 * tar.BLOCK


_ROW = struct.Struct("<QQIBQQI")
assert _ROW.size == SAMPLE.itemsize
_to_json = json.JSONEncoder(sort_keys=True).encode


def sample_of(data: bytes, extension: str, about: dict[str, Any]) -> Sample:
    """A sample; the work that needs no order is done here, on whatever thread."""
    return Sample(data, extension, crc32(data), _to_json(about).encode())


def shard_name(split: str, number: int) -> str:
    """The name of a split's shard."""
    return f"{split}-{number:06d}.tar"


def fits(taken: int, sample_blocks: int, shard_bytes: int) -> bool:
    """Whether a sample may join the `taken` bytes of a shard."""
    return taken + sample_blocks + len(tar.END) <= shard_bytes


class Digest:
    """SHA-256 of chunks on a thread of its own, at most one chunk behind.

    Context manager: leaving it waits for the thread.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def update(self, chunk: Buffer) -> None:
        """Add a chunk, once the one before it is done: from then on that one may change."""
        if self._last:
            self._last.result()
        self._last = self._thread.submit(self._sha256.update, chunk)

    def hexdigest(self) -> str:
        """Of all chunks."""
        if self._last:
            self._last.result()
        return self._sha256.hexdigest()


class ShardWriter:
    """Context manager; leaving it before `close` leaves no unfinished file.

    Args:
        place: where `SPLIT-000000.tar`, `SPLIT-000000.index.npy`, … go.
        split: the split's name; also the start of each sample's key.
        shard_bytes: a shard ends before the sample that would make it larger, but holds one at least.
        number: of the first shard.
        samples: of the split in earlier shards; keys go on from them.
    """

    def __init__(
        self,
        place: Place,
        split: str,
        shard_bytes: int,
        number: int = 0,
        samples: int = 0,
    ) -> None:
        self.samples = samples
        self._place = place
        self._split = split
        self._shard_bytes = shard_bytes
        self._number = number
        self._open_file = contextlib.ExitStack()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open_file.__exit__(kind, error, trace)

    def write(self, sample: Sample) -> Full | None:
        """Append a sample, to a new shard if it doesn't fit; gives the full one, to be called."""
        is_full = self._file and not fits(self._size, sample.blocks, self._shard_bytes)
        full = self.close() if is_full else None
        if not self._file:
            self._open()
        key = f"{self._split}-{self.samples:09d}"
        start = self._size + tar.BLOCK
        note_start = start + tar.padded(len(sample.data)) + tar.BLOCK
        self._append(tar.header(f"{key}.{sample.extension}", len(sample.data)))
        self._append(sample.data)
        failpoint("member")
        note_header = _padding(sample.data) + tar.header(f"{key}.json", len(sample.note))
        self._append(note_header + sample.note + _padding(sample.note))
        picture = (start, len(sample.data), sample.crc32, 1)
        note = (note_start, len(sample.note), crc32(sample.note))
        self._rows += _ROW.pack(*picture, *note)
        self.samples += 1
        return full

    def _open(self) -> None:
        self._name = shard_name(self._split, self._number)
        self._file = self._open_file.enter_context(whole_file(self._place.folder / self._name))
        self._size = 0  # bytes so far
        self._digest = self._open_file.enter_context(Digest())
        # Two chunks take turns: fresh memory for each would cost as much as to copy into it.
        self._chunk, self._other_chunk = (memoryview(bytearray(_CHUNK)) for _ in range(2))
        self._filled = 0  # bytes of the chunk
        self._rows = bytearray()  # of `SAMPLE`; as tuples they'd take ten times as much

    def _append(self, data: bytes) -> None:
        size = len(data)
        self._size += size
        if self._filled + size > _CHUNK:
            self._write(self._chunk[: self._filled])
            self._chunk, self._other_chunk, self._filled = self._other_chunk, self._chunk, 0
        if size > _CHUNK:
            self._write(data)
        else:
            self._chunk[self._filled : self._filled + size] = data
            self._filled += size

    def _write(self, chunk: Buffer) -> None:
        assert self._file is not None
        self._digest.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:  # before it comes to the files that are open around this one
            error.filename = str(self._place.folder / self._name)
            raise

    def close(self) -> Full | None:
        """End the shard that is open, if one is; gives it, to be called."""
        if not self._file:
            return None
        self._append(tar.END)
        self._write(self._chunk[: self._filled])
        self._file = None
        self._number += 1
        name, size, digest, place = self._name, self._size, self._digest, self._place
        rows, open_file = np.frombuffer(self._rows, SAMPLE), self._open_file.pop_all()

        def finish() -> Shard:
            sha256 = digest.hexdigest()
            open_file.close()
            index_sha256 = write_index(place.folder / index_name(name), rows)
            shard = Shard(name, size, sha256, len(rows), index_sha256)
            place.publish_shard(shard)
            return shard

        return finish


def _padding(data: bytes) -> bytes:
    return bytes(-len(data) % tar.BLOCK)
