"""Crop boxes from a CSV file of the user's: file,x0,y0,x1,y1 in pixels."""

import csv
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dvae.errors import UserError
from shards.geometry import Box
from shards.sources import Item, shown

_COLUMNS = ("file", "x0", "y0", "x1", "y1")


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

    def given_to(self, items: Iterable[Item]) -> list[Item]:
        """The pictures with the boxes of this table.

        Raises:
            UserError: it names none of them.
        """
        boxed = [item._replace(box=self.find(item.name)) for item in items]
        if not any(item.box for item in boxed):
            raise UserError(
                "--boxes names no picture of SOURCE: its column file is relative to SOURCE or to "
                "the CSV's own folder"
            )
        return boxed


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
