"""A cache of remote shards on a local disk, shared by the processes of a node.

    CACHE_DIR/SHA256-SIZE     a piece of a shard: SHA-256 of its URL, checksum and range; its bytes

An entry has its name only when it is whole, and its bytes are checked where they're used: the reader
that finds a wrong CRC-32 asks again (`reread`), and the piece is fetched anew. One process fetches a
piece while the others wait for it. When more than the limit would be kept, those that were written
longest ago go first. Where the disk is full the rest of the run reads past the cache.
"""

import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock

from dvae.data.manifest import Split
from dvae.data.shard_list import Shard, ShardList
from dvae.data.storage import LocalStore, Store, StoreError
from dvae.errors import UserError
from dvae.files import TEMPORARY, write_bytes

PIECE = 8 << 20  # bytes of a shard in an entry
OPEN_ENTRIES = 16  # a deleted one takes its place on the disk until it's closed
STALE = 3600.0  # seconds after which nobody writes to an unfinished entry any more


def cached(split: Split, folder: str, limit: int) -> Split:
    """The same split with its remote tars read through a cache.

    Raises:
        UserError: the folder can't be written.
    """
    if not folder or not split.tars.is_remote:
        return split
    return replace(split, tars=CachedStore(split.tars, Path(folder), limit, split.shards))


class CachedStore:
    """A remote store of shards that are kept in pieces.

    Raises:
        UserError: the folder can't be written.
    """

    is_remote = True

    def __init__(
        self,
        store: Store,
        folder: Path,
        limit: int,
        shards: ShardList,
        piece: int = PIECE,
    ) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".lock-room").open("a").close()
        except OSError as error:
            raise UserError(
                f"data.cache_dir={str(folder)!r} can't be written ({error.strerror}): choose another"
            ) from None
        self.shown = store.shown
        self._store = store
        self._folder = folder
        self._limit = limit
        self._shards = shards
        self._piece = piece
        self._entries = LocalStore(folder, OPEN_ENTRIES)
        self._is_full = False
        self._lock = Lock()

    def read(self, name: str, offset: int, size: int) -> bytes:
        """See `Store`."""
        shard = self._shards.named(name)
        if self._is_full or offset < 0 or offset + size > shard.bytes:
            return self._store.read(name, offset, size)
        parts = []
        for start in range(offset - offset % self._piece, offset + size, self._piece):
            begin, end = max(offset, start), min(offset + size, start + self._piece)
            parts.append(self._part(shard, start, begin - start, end - begin))
        return b"".join(parts)

    def reread(self, name: str, offset: int, size: int) -> bytes:
        """See `Store`; the pieces that hold the bytes are thrown away first."""
        shard = self._shards.named(name)
        for start in range(offset - offset % self._piece, offset + size, self._piece):
            self._forget(self._entry(shard, start)[0])
        return self.read(name, offset, size)

    def read_whole(self, name: str, limit: int) -> bytes:
        """See `Store`; not kept."""
        return self._store.read_whole(name, limit)

    def size(self, name: str) -> int:
        """See `Store`."""
        return self._store.size(name)

    def _part(self, shard: Shard, start: int, offset: int, size: int) -> bytes:
        """Some bytes of the piece that begins at `start`."""
        entry, length = self._entry(shard, start)
        found = self._kept(entry, offset, size)
        if found is not None:
            return found
        try:
            with self._alone(entry[:2]):  # one of 256 locks
                found = self._kept(entry, offset, size)  # another process may have fetched it
                if found is not None:
                    return found
                piece = self._store.read(shard.name, start, length)
                self._keep(entry, piece)
                return piece[offset : offset + size]
        except OSError as error:
            self._end_caching(error)
        return self._store.read(shard.name, start + offset, size)

    def _entry(self, shard: Shard, start: int) -> tuple[str, int]:
        """A piece's file name and size."""
        length = min(self._piece, shard.bytes - start)
        what = f"{self._store.shown}/{shard.name}\n{shard.sha256}\n{start}+{length}"
        return f"{hashlib.sha256(what.encode()).hexdigest()}-{length}", length

    def _kept(self, entry: str, offset: int, size: int) -> bytes | None:
        try:
            return self._entries.read(entry, offset, size)
        except StoreError:  # not there, or cut
            self._entries.forget(entry)
            return None

    def _keep(self, entry: str, piece: bytes) -> None:
        """Write a piece, after making room for it."""
        if len(piece) <= self._limit:
            with self._alone("room"):
                self._make_room(len(piece))
                write_bytes(self._folder / entry, piece)

    def _end_caching(self, error: OSError) -> None:
        with self._lock:
            was_full, self._is_full = self._is_full, True
        if not was_full:
            sys.stderr.write(
                f"warning: data.cache_dir={self._folder} can't be written ({error.strerror}): "
                "shards are read past the cache from here on\n"
            )

    def _make_room(self, size: int) -> None:
        """Delete the entries that were written longest ago until another one fits."""
        kept = []
        for file in os.scandir(self._folder):
            try:
                state = file.stat()
            except FileNotFoundError:
                continue
            if not file.name.startswith("."):
                kept.append((state.st_mtime_ns, state.st_size, file.name))
            elif file.name.startswith(TEMPORARY) and state.st_mtime < time.time() - STALE:
                (self._folder / file.name).unlink(missing_ok=True)
        total = sum(length for _, length, _ in kept) + size
        for _, length, name in sorted(kept):
            if total <= self._limit:
                break
            self._forget(name)
            total -= length

    def _forget(self, entry: str) -> None:
        self._entries.forget(entry)
        (self._folder / entry).unlink(missing_ok=True)

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """Hold one of the node's locks; it dies with its holder."""
        with (self._folder / f".lock-{what}").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
