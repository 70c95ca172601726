"""A folder, walked recursively.

Names are bytes, so that neither the locale nor an odd name matters. Symbolic links, FIFOs, sockets
and devices are counted, never opened. Hidden folders (`.git`, `.thumbnails`) and macOS's `._`
companions are left out; other files with a leading dot are files like any other.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dvae.data.formats import MAX_BYTES
from dvae.errors import UserError
from shards.pictures import PictureError
from shards.sources import Item


@dataclass(frozen=True)
class Folder:
    """The files under a folder.

    Raises:
        UserError: it's missing, or isn't a folder.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            kind = "is not a folder" if self.path.exists() else "does not exist"
            raise UserError(
                f"SOURCE {str(self.path)!r} {kind}: give the folder that holds the pictures"
            )

    def files(self, ignored: Counter[str]) -> Iterator[Item]:
        """The regular files, in no particular order.

        Raises:
            UserError: the folder itself can't be read.
        """
        return (Item(name, _size(entry)) for name, entry in self._entries(ignored))

    def names(self) -> Iterator[bytes]:
        """Those of `files`, in half the time: nothing but the folders is asked for."""
        return (name for name, _ in self._entries(Counter()))

    def _entries(self, ignored: Counter[str]) -> Iterator[tuple[bytes, "os.DirEntry[bytes]"]]:
        root = os.fsencode(self.path)
        folders = [b""]
        while folders:
            folder = folders.pop()
            prefix = os.path.join(folder, b"")
            try:
                with os.scandir(os.path.join(root, folder)) as entries:
                    for entry in entries:
                        kind = _kind(entry)
                        if kind == "folder":
                            folders.append(prefix + entry.name)
                        elif kind == "file":
                            yield prefix + entry.name, entry
                        else:
                            ignored[kind] += 1
            except OSError as error:
                if not folder:
                    raise UserError(
                        f"SOURCE {str(self.path)!r} cannot be read: {error.strerror}"
                    ) from None
                ignored["unreadable folders"] += 1

    def read(self, item: Item) -> bytes:
        """The bytes of a file of `files`."""
        return read_file(self._prefix + item.name)

    @cached_property
    def _prefix(self) -> bytes:
        return os.path.join(os.fsencode(self.path), b"")


def _kind(entry: os.DirEntry[bytes]) -> str:
    """`folder` or `file`, or what an entry is counted as."""
    if entry.is_symlink():
        return "symbolic links"
    if entry.is_dir(follow_symlinks=False):
        return "hidden folders" if entry.name.startswith(b".") else "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "special files"


def _size(entry: os.DirEntry[bytes]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0  # gone since; reading it will say so


def read_file(path: bytes) -> bytes:
    """A regular file's bytes; what became a link or a FIFO since the listing can't block or lead out.

    Raises:
        PictureError: it's gone, unreadable, not a regular file or too large.
    """
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags)
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise PictureError("not a regular file: it was one when the folder was listed")
            if state.st_size > MAX_BYTES:
                raise PictureError(f"too large: {state.st_size} bytes, more than {MAX_BYTES}")
            data = os.read(descriptor, state.st_size)
            while len(data) < state.st_size and (more := os.read(descriptor, MAX_BYTES)):
                data += more
            return data
        finally:
            os.close(descriptor)
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from None
