"""What there is to pack: the pictures under a folder, their labels, order, split and boxes.

Rules of the walk: names are bytes, so that neither the locale nor an odd name matters. Symbolic
links, FIFOs, sockets and devices are counted, never opened. Hidden folders (`.git`, `.thumbnails`)
and macOS's `._` companions are left out; other files with a leading dot are files like any other.
"""

import csv
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dvae.data.formats import MAX_BYTES, SUFFIXES
from dvae.errors import UserError
from shards.geometry import Box
from shards.pictures import PictureError

EXTENSIONS = frozenset(suffix.encode() for suffix in SUFFIXES)
_COLUMNS = ("file", "x0", "y0", "x1", "y1")


class Found(NamedTuple):
    """A file with a picture's extension: its name relative to the source, and its size in bytes."""

    name: bytes
    size: int


@dataclass
class Listing:
    """What the walk found: pictures in no particular order, and how many other things by kind."""

    pictures: list[Found] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted names and sizes."""
        digest = hashlib.sha256()
        for name, size in sorted(self.pictures):
            digest.update(b"%d %d %s\n" % (size, len(name), name))
        return digest.hexdigest()


def list_pictures(source: Path) -> Listing:
    """Walk a folder.

    Raises:
        UserError: `source` is missing, isn't a folder, or can't be read.
    """
    if not source.is_dir():
        kind = "is not a folder" if source.exists() else "does not exist"
        raise UserError(f"SOURCE {str(source)!r} {kind}: give the folder that holds the pictures")
    root = os.fsencode(source)
    listing = Listing()
    folders = [b""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    _take(entry, folder, listing, folders)
        except OSError as error:
            if not folder:
                raise UserError(
                    f"SOURCE {str(source)!r} cannot be read: {error.strerror}"
                ) from None
            listing.ignored["unreadable folders"] += 1
    return listing


def _take(entry: os.DirEntry[bytes], folder: bytes, listing: Listing, folders: list[bytes]) -> None:
    name = os.path.join(folder, entry.name)
    if entry.is_symlink():
        listing.ignored["symbolic links"] += 1
    elif entry.is_dir(follow_symlinks=False):
        if entry.name.startswith(b"."):
            listing.ignored["hidden folders"] += 1
        else:
            folders.append(name)
    elif not entry.is_file(follow_symlinks=False):
        listing.ignored["special files"] += 1
    elif entry.name.startswith(b"._") or os.path.splitext(name)[1].lower() not in EXTENSIONS:
        listing.ignored["other files"] += 1
    else:
        try:
            size = entry.stat(follow_symlinks=False).st_size
        except OSError:
            size = 0  # gone since; reading it will say so
        listing.pictures.append(Found(name, size))


def read_picture(path: bytes) -> bytes:
    """A regular file's bytes; what became a link or a FIFO since the listing can't block or lead out.

    Raises:
        PictureError: it's gone, unreadable, not a regular file or too large.
    """
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise PictureError("not a regular file: it was one when the folder was listed")
            if state.st_size > MAX_BYTES:
                raise PictureError(f"too large: {state.st_size} bytes, more than {MAX_BYTES}")
            return file.read(MAX_BYTES)
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from None


def shuffled(pictures: Sequence[Found], seed: int) -> list[Found]:
    """The pictures in the order of SHA-256(seed, name): mixed over labels, the same everywhere."""
    start = b"%d\n" % seed
    return sorted(pictures, key=lambda p: hashlib.sha256(start + p.name).digest())


def is_held_out(content: bytes, fraction: float, seed: int) -> bool:
    """Whether a picture belongs to `val`: decided by its source's SHA-256, so copies stay together."""
    digest = hashlib.sha256(b"%d\n" % seed + content).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def shown(name: bytes) -> str:
    r"""A file name as text; bytes that aren't UTF-8 appear as `\xff`."""
    return name.decode("utf-8", "backslashreplace")


def label_of(name: bytes) -> str | None:
    """The sub-folder that a picture lies in, with `/` between levels; None directly in the source."""
    return shown(os.path.dirname(name)) or None


@dataclass(frozen=True)
class Boxes:
    """Crop boxes by file name, relative to the source or to the CSV file's own folder."""

    rows: dict[bytes, Box]
    source: bytes
    folder: bytes
    sha256: str

    def find(self, name: bytes) -> Box | None:
        """The box of a picture, named relative to the source; None: it's packed whole."""
        box = self.rows.get(name)
        if box is None:
            box = self.rows.get(os.path.relpath(os.path.join(self.source, name), self.folder))
        return box


def read_boxes(path: Path, source: Path) -> Boxes:
    """Read a CSV file with the columns file, x0, y0, x1, y1 (pixels, x1 and y1 exclusive).

    Raises:
        UserError: it can't be read, or a line is wrong; names the line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"--boxes {str(path)!r} cannot be read: {error.strerror}") from None
    text = data.decode("utf-8-sig", "surrogateescape")
    lines = csv.reader(text.splitlines(keepends=True), strict=True)
    rows: dict[bytes, Box] = {}
    try:
        head = next(lines, [])
        missing = [column for column in _COLUMNS if column not in head]
        if missing:
            raise _wrong(path, 1, f"no column {missing[0]!r}; the columns are {','.join(_COLUMNS)}")
        for line in lines:
            if not line:
                continue
            if len(line) != len(head):
                raise _wrong(path, lines.line_num, f"{len(line)} fields, not {len(head)}")
            name, box = _row(dict(zip(head, line, strict=True)), path, lines.line_num)
            if name in rows:
                raise _wrong(path, lines.line_num, f"{shown(name)!r} has a box already")
            rows[name] = box
    except csv.Error as error:
        raise _wrong(path, lines.line_num, str(error)) from None
    folder = os.fsencode(path.resolve().parent)
    return Boxes(rows, os.fsencode(source.resolve()), folder, hashlib.sha256(data).hexdigest())


def _row(fields: dict[str, str], path: Path, line: int) -> tuple[bytes, Box]:
    corners = []
    for column in _COLUMNS[1:]:
        try:
            corners.append(int(fields[column]))
        except ValueError:
            reason = f"{column} is {fields[column][:40]!r}, not a whole number of pixels"
            raise _wrong(path, line, reason) from None
    name = fields["file"].encode("utf-8", "surrogateescape")
    x0, y0, x1, y1 = corners
    return os.path.normpath(name), (x0, y0, x1, y1)


def _wrong(path: Path, line: int, reason: str) -> UserError:
    return UserError(f"--boxes {str(path)!r}, line {line}: {reason}: mend the file")
