"""Crop boxes from a CSV file of the user's: file,x0,y0,x1,y1 in pixels."""

import csv
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dvae.errors import UserError
from shards.geometry import Box
from shards.options import Options
from shards.sources import Item, Listing, shown

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


def choose_boxes(options: Options, listing: Listing) -> str | None:
    """Give the pictures of a listing the boxes that `--boxes` asks for, and no others.

    Returns:
        What the boxes come from: a CSV file's SHA-256, `source`, or None.

    Raises:
        UserError: none of the pictures has a box, or the CSV file is wrong.
    """
    if options.boxes is None:
        _give(listing, lambda item: None)
        return None
    if options.boxes == Path("source"):
        if not any(item.box for item in listing.pictures):
            raise UserError("--boxes source: SOURCE names no boxes: give a CSV file of them")
        return "source"
    if isinstance(options.source, str):
        raise UserError("--boxes with a file needs a local SOURCE: give a list with boxes instead")
    boxes = read_boxes(options.boxes, options.source)
    _give(listing, lambda item: boxes.find(item.name))
    if not any(item.box for item in listing.pictures):
        raise UserError(
            f"--boxes {str(options.boxes)!r} names no picture of SOURCE: its column file is relative "
            "to SOURCE or to the CSV's own folder"
        )
    return boxes.sha256


def _give(listing: Listing, box_of: Callable[[Item], Box | None]) -> None:
    """Replace boxes one by one: a second list of a million pictures would take 110 MB."""
    for place, item in enumerate(listing.pictures):
        box = box_of(item)
        if box != item.box:
            listing.pictures[place] = item._replace(box=box)


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
