"""Tar and zip archives as trees of files, read in place: nothing is unpacked, no name is a path.

A tar's members are found by `shards.tar`. A zip's central directory is read here, an entry at a
time, so that memory doesn't grow with the archive, and each read stands alone: `zipfile` keeps an
object for every entry and reads one at a time. Links, devices and sparse members are counted, never
read; a member that says it's larger than MAX_BYTES, or gives more than it says, is refused. A name
that occurs twice is two files.
"""

import bisect
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dvae.data.formats import MAX_BYTES
from dvae.errors import UserError
from shards import tar
from shards.pictures import PictureError
from shards.sources import Item, inner_name, is_hidden

_END = struct.Struct("<4s4H2IH")  # of the central directory
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_LINK = 0o120000  # the file type of a symbolic link in a Unix mode


@dataclass(frozen=True)
class Tars:
    """The files of one or several tars; a place is an offset in them, laid end to end."""

    paths: tuple[Path, ...]

    def files(self, ignored: Counter[str]) -> Iterator[Item]:
        """The plain members.

        Raises:
            UserError: a tar can't be read or is damaged; names the byte.
        """
        for start, path in zip(self.starts, self.paths, strict=True):
            with open_archive(path) as file:
                for member in tar.members(file, str(path)):
                    name = inner_name(member.name.encode("utf-8", "surrogateescape"))
                    if not member.is_regular:
                        if not member.name.endswith("/"):
                            ignored["special files"] += 1
                    elif is_hidden(name):
                        ignored["hidden files"] += 1
                    else:
                        yield Item(name, member.size, place=start + member.offset)

    def read(self, item: Item) -> bytes:
        """The bytes of a file of `files`."""
        number = bisect.bisect_right(self.starts, item.place) - 1
        return read_range(self.paths[number], item.place - self.starts[number], item.size)

    @cached_property
    def starts(self) -> list[int]:
        """The place at which each tar begins."""
        sizes = (path.stat().st_size for path in self.paths)
        return list(accumulate(sizes, initial=0))[:-1]


@dataclass(frozen=True)
class Zip:
    """The files of a zip; a place is an entry's offset in the central directory."""

    path: Path

    def files(self, ignored: Counter[str]) -> Iterator[Item]:
        """The plain entries.

        Raises:
            UserError: it isn't a zip, or is damaged.
        """
        with open_archive(self.path) as file:
            place, count = _central_directory(file, self.path)
            for _ in range(count):
                entry = _entry(file, place, self.path)
                name = inner_name(entry.name)
                if entry.name.endswith(b"/"):
                    pass
                elif entry.mode & 0o170000 == _LINK:
                    ignored["symbolic links"] += 1
                elif is_hidden(name):
                    ignored["hidden files"] += 1
                else:
                    yield Item(name, entry.size, place=place)
                place = entry.end

    def read(self, item: Item) -> bytes:
        """The bytes of a file of `files`, checked against its CRC-32."""
        if item.size > MAX_BYTES:
            raise PictureError(f"too large: {item.size} bytes, more than {MAX_BYTES}")
        try:
            with self.path.open("rb") as file:
                entry = _entry(file, item.place, self.path)
                data = _inflated(_stored(file, entry), entry)
        except (UserError, OSError, struct.error, zlib.error):
            raise PictureError("damaged: in its zip") from None
        if len(data) != entry.size or zlib.crc32(data) != entry.crc32:
            raise PictureError("damaged: its zip says another size or checksum")
        return data


class _Entry(NamedTuple):
    name: bytes
    method: int
    is_encrypted: bool
    crc32: int
    stored_size: int  # bytes in the archive
    size: int  # bytes
    mode: int  # Unix; 0 if the archive has none
    header: int  # offset of the local header
    end: int  # offset of the next entry


def open_archive(path: Path) -> BinaryIO:
    """An archive, opened.

    Raises:
        UserError: it can't be.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"SOURCE {str(path)!r} cannot be read: {error.strerror}") from None


def read_range(path: Path, offset: int, size: int) -> bytes:
    """Some bytes of a file.

    Raises:
        PictureError: more than MAX_BYTES, or they aren't there any more.
    """
    if size > MAX_BYTES:
        raise PictureError(f"too large: {size} bytes, more than {MAX_BYTES}")
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from None
    if len(data) != size:
        raise PictureError("cannot be read: the archive became shorter")
    return data


def _central_directory(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Where a zip's entries start, and how many there are."""
    total = os.fstat(file.fileno()).st_size
    start = max(0, total - _END.size - 0xFFFF)  # a comment of at most 65,535 bytes may follow
    tail = os.pread(file.fileno(), total - start, start)
    found = _end_record(tail)
    if found is None:
        raise UserError(f"{str(path)!r} is no zip, or its end is missing: copy it again")
    _, _, _, _, count, size, place, _ = _END.unpack_from(tail, found)
    if count == 0xFFFF or 0xFFFFFFFF in (size, place):
        locator = os.pread(file.fileno(), _LOCATOR64.size, start + found - _LOCATOR64.size)
        if len(locator) == _LOCATOR64.size and locator.startswith(b"PK\6\7"):
            record = os.pread(file.fileno(), _END64.size, _LOCATOR64.unpack(locator)[2])
            if len(record) < _END64.size or not record.startswith(b"PK\6\6"):
                raise _damaged(path, start + found)
            count, size, place = _END64.unpack(record)[-3:]
    if place + size > start + found or count * _ENTRY.size > size:
        raise _damaged(path, start + found)
    return place, count


def _end_record(tail: bytes) -> int | None:
    """Where the record is whose comment reaches to the end; a comment may hold its signature too."""
    found = tail.rfind(b"PK\5\6")
    while found >= 0:
        comment = tail[found + _END.size - 2 : found + _END.size]
        if len(comment) == 2 and found + _END.size + int.from_bytes(comment, "little") == len(tail):
            return found
        found = tail.rfind(b"PK\5\6", 0, found)
    return None


def _entry(file: BinaryIO, place: int, path: Path) -> _Entry:
    head = os.pread(file.fileno(), _ENTRY.size, place)
    if len(head) < _ENTRY.size or not head.startswith(b"PK\1\2"):
        raise _damaged(path, place)
    fields = _ENTRY.unpack(head)
    flags, method, crc32, stored_size, size = fields[3], fields[4], *fields[7:10]
    name_size, extra_size, comment_size = fields[10:13]
    rest = os.pread(file.fileno(), name_size + extra_size, place + _ENTRY.size)
    if len(rest) < name_size + extra_size:
        raise _damaged(path, place)
    wide = _zip64(rest[name_size:])
    sizes = [size, stored_size, fields[16]]
    for number, value in enumerate(sizes):
        if value == 0xFFFFFFFF and wide:
            sizes[number] = wide.pop(0)
    end = place + _ENTRY.size + len(rest) + comment_size
    mode = fields[15] >> 16
    return _Entry(
        rest[:name_size], method, bool(flags & 1), crc32, sizes[1], sizes[0], mode, sizes[2], end
    )


def _zip64(extra: bytes) -> list[int]:
    """The 8-byte numbers of an entry's zip64 record: those that didn't fit into 4, in order."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == 1:
            count = min(size, len(extra) - 4) // 8
            return list(struct.unpack_from(f"<{count}Q", extra, 4))
        extra = extra[4 + size :]
    return []


def _stored(file: BinaryIO, entry: _Entry) -> bytes:
    """An entry's bytes as they stand in the archive."""
    if entry.is_encrypted:
        raise PictureError("cannot be read: encrypted in its zip")
    if entry.stored_size > MAX_BYTES:
        raise PictureError(f"too large: {entry.stored_size} bytes, more than {MAX_BYTES}")
    head = _LOCAL.unpack(os.pread(file.fileno(), _LOCAL.size, entry.header))
    start = entry.header + _LOCAL.size + head[-2] + head[-1]
    return os.pread(file.fileno(), entry.stored_size, start)


def _inflated(data: bytes, entry: _Entry) -> bytes:
    if entry.method == _STORED:
        return data
    if entry.method != _DEFLATED:
        raise PictureError(f"cannot be read: compressed by method {entry.method} in its zip")
    return zlib.decompressobj(-15).decompress(data, entry.size + 1)


def _damaged(path: Path, place: int) -> UserError:
    return UserError(f"{str(path)!r} is damaged at byte {place}: copy it again")
