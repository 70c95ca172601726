"""Folders of files that are read by range, wherever they lie: `open_store(location)`.

A file's bytes come whole or not at all: `read` gives exactly what was asked for or raises.
"""

import errno
import os
import resource
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Protocol

from dvae.data.location import HTTP, scheme_of
from dvae.errors import DataError

PIECE = 8 << 20  # bytes of a whole file, read at a time
OPEN_FILES = 128  # of a local folder, kept open at a time, at most


class StoreError(DataError):
    """A file that can't be read, with its place (secrets masked) and the reason."""


class Store(Protocol):
    """A folder of files; safe to use from several threads. All its methods raise `StoreError`."""

    shown: str  # the location without secrets, for messages
    is_remote: bool

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes of a file from `offset` on."""

    def reread(self, name: str, offset: int, size: int) -> bytes:
        """The same past every cache, because what came before was wrong."""

    def read_whole(self, name: str, limit: int) -> bytes:
        """A small file; one of more than `limit` bytes is refused."""

    def size(self, name: str) -> int:
        """Of a file, in bytes."""


Location = str | Path | Store


def open_store(location: Location) -> Store:
    """The store of a folder, local or remote; a store is given back as it is.

    Raises:
        UserError: a location of a kind that isn't read from; names those that are.
    """
    if isinstance(location, Path):
        return LocalStore(location)
    if not isinstance(location, str):
        return location
    scheme = scheme_of(location)
    if not scheme:
        return LocalStore(Path(location))
    if scheme in HTTP:  # urllib3 and fsspec are imported by those who need them
        from dvae.data.http import HttpStore

        return HttpStore(location)
    from dvae.data.objects import ObjectStore

    return ObjectStore(location)


def pieces_of(store: Store, name: str, size: int) -> Iterator[bytes]:
    """The bytes of a file, some megabytes at a time.

    Raises:
        StoreError: it can't be read.
    """
    for start in range(0, size, PIECE):
        yield store.read(name, start, min(PIECE, size - start))


class _OpenFile:
    """A descriptor that is closed when the last thread that uses it lets go of it."""

    def __init__(self, path: Path) -> None:
        # Not blocking: a FIFO that took a shard's place must not hold a thread for ever.
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _open_files(wanted: int) -> int:
    """How many files a folder keeps open: at most a small part of what the process may."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, allowed // 8))


def _failed(error: OSError, message: str) -> Exception:
    """What a failed read raises: too few descriptors are no fault of the file's."""
    return error if error.errno in (errno.EMFILE, errno.ENFILE) else StoreError(message)


class LocalStore:
    """A folder on a disk."""

    is_remote = False

    def __init__(self, folder: Path, most: int = OPEN_FILES) -> None:
        self.folder = folder
        self.shown = str(folder)
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._most = _open_files(most)
        self._lock = Lock()

    def read(self, name: str, offset: int, size: int) -> bytes:
        """By one pread."""
        try:
            opened = self._open(name)  # held: another thread may put its own in its place
            data = os.pread(opened.descriptor, size, offset)
        except OSError as error:
            raise _failed(error, f"reading it failed: {error.strerror}") from None
        if len(data) != size:
            raise StoreError(f"{len(data)} of its {size} bytes are there: the shard was cut short")
        return data

    reread = read

    def read_whole(self, name: str, limit: int) -> bytes:
        """See `Store`."""
        with self._whole(name, limit) as (file, size):
            return file.read(size)  # not of the limit: as much memory as is asked for is taken

    def pieces(self, name: str, limit: int, piece: int) -> Iterator[bytes]:
        """The same in pieces of so many bytes."""
        with self._whole(name, limit) as (file, size):
            for start in range(0, size, piece):
                yield file.read(min(piece, size - start))

    @contextmanager
    def _whole(self, name: str, limit: int) -> Iterator[tuple[BinaryIO, int]]:
        """A file and its size."""
        path = self.folder / name
        size = self.size(name)
        if size > limit:
            raise StoreError(f"{path} has {size} bytes, more than {limit}")
        try:
            with path.open("rb") as file:
                yield file, size
        except OSError as error:
            raise _failed(error, f"{path} cannot be read ({error.strerror})") from None

    def size(self, name: str) -> int:
        """Of a plain file: a FIFO would wait for ever."""
        try:
            state = os.stat(f"{self.shown}/{name}")  # a Path would cost more than the call
            if stat.S_ISREG(state.st_mode):
                return state.st_size
        except (OSError, ValueError):
            pass
        raise StoreError(f"{self.folder / name} is missing")

    def forget(self, name: str) -> None:
        """Close a file, so that the next read opens what has its name then."""
        with self._lock:
            self._files.pop(name, None)

    def _open(self, name: str) -> _OpenFile:
        opened = self._files.get(name)
        if opened is None:
            opened = _OpenFile(self.folder / name)
            with self._lock:
                self._files[name] = opened
                if len(self._files) > self._most:
                    self._files.popitem(last=False)  # opened first: shards are read in no order
        return opened
