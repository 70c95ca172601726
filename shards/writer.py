"""Writes the shards of one split: a tar and its offset index at a time, both whole or absent."""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np

from dvae.data.index import SAMPLE, write_index
from dvae.data.manifest import Shard, index_name
from dvae.failpoint import failpoint
from dvae.files import whole_file
from shards import tar


class Sample(NamedTuple):
    """What is written for one picture: its bytes, their extension and its JSON."""

    data: bytes
    extension: str
    about: dict[str, Any]


class ShardWriter:
    """Context manager; what it has closed is in `shards`, and an error leaves no unfinished file.

    Args:
        folder: where `SPLIT-000000.tar`, `SPLIT-000000.index.npy`, … go.
        split: the split's name; also the start of each sample's key.
        shard_bytes: a shard ends before the sample that would make it larger, but holds one at least.
        shards: of the split, written by an earlier run; numbers and keys go on from them.
    """

    def __init__(
        self, folder: Path, split: str, shard_bytes: int, shards: Sequence[Shard] = ()
    ) -> None:
        self.shards = list(shards)
        self.samples = sum(shard.samples for shard in shards)
        self._folder = folder
        self._split = split
        self._shard_bytes = shard_bytes
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
        if kind is None:
            self.close()
        else:
            self._open_file.__exit__(kind, error, trace)

    def write(self, sample: Sample) -> None:
        """Append a sample, to a new shard if it doesn't fit into this one."""
        key = f"{self._split}-{self.samples:09d}"
        note = json.dumps(sample.about, sort_keys=True).encode()
        blocks = tar.padded(len(sample.data)) + tar.padded(len(note)) + 2 * tar.BLOCK
        if self._file and self._size + blocks + len(tar.END) > self._shard_bytes:
            self.close()
        if not self._file:
            self._open()
        start = self._put(f"{key}.{sample.extension}", sample.data)
        note_start = self._put(f"{key}.json", note)
        picture = (start, len(sample.data), zlib.crc32(sample.data), 1)
        self._rows.append((*picture, note_start, len(note), zlib.crc32(note)))
        self.samples += 1

    def _open(self) -> None:
        self._name = f"{self._split}-{len(self.shards):06d}.tar"
        self._file = self._open_file.enter_context(whole_file(self._folder / self._name))
        self._size = 0  # bytes written
        self._digest = hashlib.sha256()
        self._rows: list[tuple[int, ...]] = []

    def _put(self, name: str, data: bytes) -> int:
        """Append a member; returns where its data starts."""
        self._append(tar.header(name, len(data)))
        start = self._size
        failpoint("member")
        self._append(data)
        self._append(bytes(tar.padded(len(data)) - len(data)))
        return start

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def close(self) -> None:
        """Finish the shard that is open, if one is."""
        if not self._file:
            return
        with self._open_file:
            self._append(tar.END)
        self._file = None
        rows = np.array(self._rows, dtype=SAMPLE)
        index_sha256 = write_index(self._folder / index_name(self._name), rows)
        digest = self._digest.hexdigest()
        self.shards.append(Shard(self._name, self._size, digest, len(rows), index_sha256))
