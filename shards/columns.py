"""Parquet files, and Hugging Face data sets that were saved with the pictures' bytes.

    a file, or a folder of *.parquet (also in data/)       what the Hub serves, to_parquet() writes
    a folder with dataset_info.json or dataset_dict.json   what save_to_disk() writes: Arrow

The picture is the column `image` (or img, jpg, png, bytes): bytes, or a struct with `bytes`. The label
is `label` (or labels, breed, class), by its class name where the file has Hugging Face's notes. The
split is the column `split`, or what the file or its folder is called: `train-00000-of-00004.parquet`.

Arrow files are mapped into memory. Of parquet a row group is read for a picture, and pictures are
packed in shuffled order, so large row groups make packing slow; the last few are kept.
"""

import bisect
import functools
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from dvae.data.formats import MAX_BYTES
from dvae.errors import UserError
from shards.pictures import PictureError
from shards.sources import Item

_PICTURES = ("image", "img", "jpg", "png", "bytes")
_LABELS = ("label", "labels", "breed", "class")
_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}
_END = 1 << 16  # bytes of a file that tell it from others; a parquet's footer lies there
_MAX_GROUP = 1 << 30  # bytes of a parquet row group, unpacked


@dataclass(frozen=True)
class Columns:
    """The rows of parquet or Arrow files; a place is a row, the files laid end to end."""

    paths: tuple[Path, ...]

    def items(self, ignored: Counter[str]) -> Iterator[Item]:
        """A picture for each row; its size isn't known before it's read.

        Raises:
            UserError: no pyarrow, a file that isn't what its name says, or no column of pictures.
        """
        for start, path in zip(self._starts, self.paths, strict=True):
            table = _opened(path)
            own = _split_of(path)
            for row, (label, split) in enumerate(table.notes()):
                name = f"{path.parent.name}/{path.name}/{row:09d}".encode(
                    "utf-8", "surrogateescape"
                )
                yield Item(name, 0, label, None, split or own, start + row)

    def read(self, item: Item) -> bytes:
        """The bytes of a row's picture."""
        number = bisect.bisect_right(self._starts, item.place) - 1
        data = _opened(self.paths[number]).picture(item.place - self._starts[number])
        if not data:
            raise PictureError("no bytes: the row holds no picture, or its path only")
        if len(data) > MAX_BYTES:
            raise PictureError(f"too large: {len(data)} bytes, more than {MAX_BYTES}")
        return data

    @property
    def digest(self) -> str:
        """SHA-256 over what tells the files from others without reading them: sizes and ends."""
        digest = hashlib.sha256()
        for path in self.paths:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _END))
                digest.update(b"%d\n" % size + file.read())
        return digest.hexdigest()

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate((_opened(path).rows for path in self.paths), initial=0))[:-1]


def find_columns(folder: Path) -> tuple[Path, ...]:
    """The parquet files or the saved Hugging Face data set that a folder holds; () if neither."""
    if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
        arrow = [p for depth in ("", "*/") for p in folder.glob(f"{depth}data-*.arrow")]
        if arrow:
            return tuple(sorted(arrow))
    return tuple(sorted(p for place in (folder, folder / "data") for p in _parquets(place)))


def _parquets(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # `glob` holds all of them, and there may be millions
        return [Path(entry.path) for entry in entries if entry.name.endswith(".parquet")]


class _Table:
    """One file: its rows' labels and splits, and the bytes of a row's picture."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_parquet = path.suffix == ".parquet"
        if self._is_parquet:
            file = _parquet(path)
            self._schema = file.schema_arrow
            groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
            if any(group.total_byte_size > _MAX_GROUP for group in groups):
                raise UserError(
                    f"{str(path)!r} has a row group of more than {_MAX_GROUP} bytes: write it anew "
                    f"with smaller ones"
                )
            self._groups = list(accumulate((group.num_rows for group in groups), initial=0))
            self.rows = self._groups[-1]
        else:
            self._mapped = _arrow(path)
            self._schema = self._mapped.schema
            self.rows = self._mapped.num_rows
        self._column = self._first(_PICTURES)
        if self._column is None:
            raise UserError(
                f"{str(path)!r} has the columns {self._schema.names}: the pictures' bytes have to be "
                f"in one of {', '.join(_PICTURES)}"
            )

    def notes(self) -> Iterator[tuple[str | None, str | None]]:
        """The label and the split of each row."""
        label, split = self._first(_LABELS), self._first(("split",))
        wanted = [column for column in (label, split) if column]
        if not wanted:
            yield from [(None, None)] * self.rows
            return
        names = self._class_names(label)
        table = _parquet(self._path).read(wanted) if self._is_parquet else self._mapped
        for batch in table.select(wanted).to_batches(4096):
            for row in batch.to_pylist():
                yield _label(row.get(label), names), _text(row.get(split))

    def picture(self, row: int) -> bytes | None:
        """The bytes of a row's picture."""
        if self._is_parquet:
            group = bisect.bisect_right(self._groups, row) - 1
            value = _group(self._path, group, self._column)[row - self._groups[group]].as_py()
        else:
            value = self._mapped.column(self._column)[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        return data if isinstance(data, bytes) else None

    def _first(self, names: tuple[str, ...]) -> str | None:
        return next((name for name in names if name in self._schema.names), None)

    def _class_names(self, column: str | None) -> list[str]:
        """What Hugging Face's notes in the file call the classes 0, 1, …; [] if nothing."""
        try:
            notes = json.loads((self._schema.metadata or {})[b"huggingface"])
            return list(map(str, notes["info"]["features"][column]["names"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return []


@functools.lru_cache(maxsize=64)
def _opened(path: Path) -> _Table:
    return _Table(path)


@functools.lru_cache(maxsize=4)
def _group(path: Path, group: int, column: str) -> Any:
    """A column of a row group; each call opens the file, since readers aren't for many threads."""
    return _parquet(path).read_row_group(group, [column]).column(column)


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise _without_pyarrow(path) from None
    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"{str(path)!r} is no readable parquet file: {error}") from None


def _arrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise _without_pyarrow(path) from None
    try:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{str(path)!r} is no readable Arrow stream: {error}") from None


def _without_pyarrow(path: Path) -> UserError:
    return UserError(f"{str(path)!r} needs pyarrow, which is absent: pip install 'dvae[parquet]'")


def _label(value: Any, names: list[str]) -> str | None:
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return _text(value)


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and value != "" else None


def _split_of(path: Path) -> str | None:
    for text in (path.name, path.parent.name):
        start = re.match(r"[a-z]*", text)
        if start and start[0] in _SPLITS:
            return _SPLITS[start[0]]
    return None
