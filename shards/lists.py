"""A list of pictures: .txt (one a line), .csv, .tsv (with a header) or .jsonl (an object a line).

    file                            label  split  x0  y0   x1   y1
    chow/rex.jpg                    chow   train  10  20  110  140
    https://example.org/pug/1.jpg   pug    val

`file` (or `url`) is a path, relative to the list's folder, or a URL, http(s) or of an object store
(s3://BUCKET/pug/1.jpg); the other columns may be absent or empty, and further ones are nobody's
business. JSON may say `"box": [x0, y0, x1, y1]`. Boxes are in pixels of the upright picture, x1 and y1
exclusive. A picture may stand in several lines.
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dvae.data.formats import MAX_BYTES
from dvae.data.location import HTTP, OBJECTS
from dvae.errors import UserError
from shards.folder import read_file
from shards.geometry import Box
from shards.http import HttpError, read_url
from shards.pictures import PictureError
from shards.sources import Item

if TYPE_CHECKING:
    import _csv

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
_CORNERS = ("x0", "y0", "x1", "y1")
_MAX_LINE = 1 << 20  # characters
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://|pipe:", re.IGNORECASE)


class _LineError(Exception):
    """What is wrong with a line; 0: with the one that was read last."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True)
class PictureList:
    """The pictures that a list names."""

    path: Path

    def items(self, ignored: Counter[str]) -> Iterator[Item]:
        """The pictures in the list's order.

        Raises:
            UserError: the list can't be read or a line is wrong; names the line.
        """
        folder = os.fsencode(self.path.parent)
        number = 0
        try:
            with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                for number, record in _records(file, self.path.suffix.lower()):  # noqa: B007
                    yield _item(record, folder)
        except OSError as error:
            raise UserError(f"SOURCE {str(self.path)!r} cannot be read: {error.strerror}") from None
        except _LineError as error:
            line = error.line or number
            raise UserError(
                f"SOURCE {str(self.path)!r}, line {line}: {error}: mend the list"
            ) from None

    def read(self, item: Item) -> bytes:
        """The bytes of a listed picture, from its file or its URL."""
        scheme = _SCHEME.match(name := item.name.decode("utf-8", "surrogateescape"))
        if not scheme:
            return read_file(os.path.join(os.fsencode(self.path.parent), item.name))
        if scheme[1] in OBJECTS:
            from shards.remote_source import read_object

            return read_object(name)
        try:
            return read_url(name, MAX_BYTES)
        except HttpError as error:
            raise PictureError(f"cannot be read: {error}") from None


def _records(file: TextIO, suffix: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the fields of each line that isn't blank."""
    if suffix in (".csv", ".tsv"):
        yield from _table(
            csv.reader(file, delimiter="\t" if suffix == ".tsv" else ",", strict=True)
        )
        return
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), ""), 1):
        if len(line) == _MAX_LINE:
            raise _LineError(f"{_MAX_LINE} characters or more", number)
        if line.strip():
            is_text = suffix == ".txt"
            yield number, {"file": line.rstrip("\r\n")} if is_text else _object(line, number)


def _table(rows: "_csv.Reader") -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        head = next(rows, [])
        if not {"file", "url"} & set(head):
            raise _LineError("no column 'file' or 'url'", 1)
        for row in rows:
            if row and len(row) != len(head):
                raise _LineError(f"{len(row)} fields, not {len(head)}", rows.line_num)
            if row:
                yield rows.line_num, dict(zip(head, row, strict=True))
    except csv.Error as error:
        raise _LineError(str(error), rows.line_num) from None


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _LineError("not a JSON object", number)
    return value


def _item(record: dict[str, Any], folder: bytes) -> Item:
    name = record.get("file") or record.get("url")
    if not isinstance(name, str) or not name or "\0" in name:
        raise _LineError("no file or URL")
    try:
        encoded = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise _LineError("a name with half a character") from None
    label, split = _text(record, "label"), _text(record, "split")
    box = _box(record)
    scheme = _SCHEME.match(name)
    if scheme and scheme[1] in OBJECTS:
        from shards.remote_source import find_object  # and fsspec, which others do without

        find_object(name)  # or the remedy is told now
    elif scheme and (scheme[1] or "").lower() not in HTTP:
        raise _LineError(f"{name[:80]!r} is neither a path nor a URL of http(s) or an object store")
    if scheme:
        return Item(encoded, 0, label, box, split)
    path = os.path.normpath(encoded)
    return Item(path, _size(os.path.join(folder, path)), label, box, split)


def _text(record: dict[str, Any], key: str) -> str | None:
    value = record.get(key)
    if value is not None and not isinstance(value, str | int):
        raise _LineError(f"{key} is {str(value)[:40]!r}, not a text")
    return None if value is None or value == "" else str(value)


def _box(record: dict[str, Any]) -> Box | None:
    corners = record.get("box") or [record.get(corner, "") for corner in _CORNERS]
    if corners in ([""] * 4, [None] * 4):
        return None
    try:
        # Not of floats, which int() would cut off.
        x0, y0, x1, y1 = (
            int(corner) if isinstance(corner, str) else index(corner) for corner in corners
        )
    except (TypeError, ValueError):
        raise _LineError(f"the box {str(corners)[:60]} is not four whole numbers") from None
    return x0, y0, x1, y1


def _size(path: bytes) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0  # reading it will say so
