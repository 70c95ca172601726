"""A cache of remote shards on a local disk, shared by the processes of a machine.

It holds blocks of shards, so that any window of a later epoch finds its bytes. An entry is named by the
SHA-256 of the shard's full URL, its checksum and the block's number: equal names in two data sets, or a
shard that was packed anew, never meet. An entry is whole or absent; the oldest go first.
"""

import fcntl
import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dvae.data.storage import Store
from dvae.errors import UserError
from dvae.files import TEMPORARY, whole_file

BLOCK_BYTES = 4 << 20
_LOCKS = 256  # files that stand for all entries
_SCAN_SHARE = 64  # the cache is measured again after 1/64 of its size was written


class Version(NamedTuple):
    """What the manifest says of a shard."""

    bytes: int
    sha256: str


class CachedStore:
    """A store whose shards are kept on a local disk; see `dvae.data.storage.Store`.

    Args:
        store: where the bytes come from.
        url: its location, secrets included: it only goes into a hash.
        versions: of the shards; other files pass by the cache.
        folder: of the cache; made where it is missing.
        max_bytes: the entries take, but for the blocks that are being written.

    Raises:
        UserError: the folder can't be made.
    """

    is_remote = True

    def __init__(
        self, store: Store, url: str, versions: Mapping[str, Version], folder: Path, max_bytes: int
    ) -> None:
        self.shown = store.shown
        self._store = store
        self._url = url
        self._versions = versions
        self._folder = folder
        self._max_bytes = max_bytes
        self._written = max_bytes  # since the cache was measured; so it is at the first entry
        self._is_full = False
        try:
            (folder / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"data.cache_dir={str(folder)!r} cannot be made ({error.strerror}): give a folder that "
                "can be written, or none"
            ) from None

    def read(self, name: str, offset: int, size: int) -> bytes:
        """See `Store`; from the cache where it has the block."""
        version = self._versions.get(name)
        if version is None or offset + size > version.bytes:
            return self._store.read(name, offset, size)
        parts, end = [], offset + size
        while offset < end:
            block, start = divmod(offset, BLOCK_BYTES)
            length = min(end - offset, BLOCK_BYTES - start)
            parts.append(self._block(name, version, block, start, length))
            offset += length
        return b"".join(parts)

    def reread(self, name: str, offset: int, size: int) -> bytes:
        """See `Store`; drops the blocks, as what they held was wrong."""
        version = self._versions.get(name)
        if version is not None:
            for block in range(offset // BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES)):
                self._entry(name, version, block).unlink(missing_ok=True)
        return self._store.reread(name, offset, size)

    def read_whole(self, name: str, limit: int) -> bytes:
        """See `Store`; not cached."""
        return self._store.read_whole(name, limit)

    def size(self, name: str) -> int:
        """See `Store`; not cached."""
        return self._store.size(name)

    def _block(self, name: str, version: Version, block: int, start: int, length: int) -> bytes:
        """Some bytes of a block, which is fetched by one process where it isn't there."""
        entry = self._entry(name, version, block)
        whole = min(BLOCK_BYTES, version.bytes - block * BLOCK_BYTES)
        found = _part(entry, whole, start, length)
        if found is not None:
            return found
        with self._locked(entry):
            found = _part(entry, whole, start, length)
            if found is not None:
                return found
            data = self._store.read(name, block * BLOCK_BYTES, whole)
            self._keep(entry, data)
        return data[start : start + length]

    def _entry(self, name: str, version: Version, block: int) -> Path:
        key = f"{self._url}\n{name}\n{version.sha256}\n{BLOCK_BYTES}\n{block}"
        return self._folder / hashlib.sha256(key.encode()).hexdigest()

    def _keep(self, entry: Path, data: bytes) -> None:
        """Write an entry; a disk without room costs the cache, not the read."""
        try:
            with whole_file(entry) as file:
                file.write(data)
        except OSError as error:
            if not self._is_full:
                warnings.warn(
                    f"data.cache_dir={str(self._folder)!r} cannot be written ({error.strerror}): "
                    "what isn't in it is read from afar each time",
                    stacklevel=2,
                )
            self._is_full = True
            return
        self._written += len(data)
        if self._written * _SCAN_SHARE >= self._max_bytes:
            self._written = 0
            self._evict()

    def _evict(self) -> None:
        """Remove the oldest entries past `max_bytes`; another process may do so at the same time."""
        entries = []
        for item in os.scandir(self._folder):
            try:
                state = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if item.is_file(follow_symlinks=False) and not item.name.startswith(TEMPORARY):
                entries.append((state.st_mtime_ns, item.path, state.st_size))
        total = sum(size for *_, size in entries)
        for _, path, size in sorted(entries):
            if total <= self._max_bytes:
                return
            Path(path).unlink(missing_ok=True)
            total -= size

    @contextmanager
    def _locked(self, entry: Path) -> Iterator[None]:
        """Hold an entry against other threads and processes; the lock dies with its holder."""
        number = int(entry.name[:8], 16) % _LOCKS
        try:
            file = (self._folder / "locks" / str(number)).open("wb")
        except OSError:  # no room, or no such folder any more: fetching twice does no harm
            yield
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _part(entry: Path, whole: int, start: int, length: int) -> bytes | None:
    """Bytes of an entry; None where it isn't there or has another size than it should."""
    try:
        with entry.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != whole:
                return None
            data = os.pread(file.fileno(), length, start)
    except OSError:
        return None
    return data if len(data) == length else None
