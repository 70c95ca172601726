"""The files of a data set that say something about its pictures: lists, tables, VOC boxes."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from dvae.errors import UserError
from shards.geometry import Box
from shards.pictures import PictureError
from shards.sources import Item
from shards.voc import HEADS_FIRST, read_box

_Value = TypeVar("_Value")


class Notes:
    """The notes of a data set.

    Args:
        read: gives a file's bytes, or raises PictureError.
        files: what they are, by their name inside the data set.
        ignored: receives how many annotations are damaged.
    """

    def __init__(
        self, read: Callable[[Item], bytes], files: dict[str, Item], ignored: Counter[str]
    ) -> None:
        self._read = read
        self._files = files
        self._ignored = ignored

    def parsed(self, pattern: str, parse: Callable[[bytes], list[_Value]]) -> list[_Value]:
        """What `parse` makes of the file whose whole name matches; [] if there is none.

        Raises:
            UserError: the file is damaged, that is, `parse` raised `ValueError`.
        """
        name = next((name for name in sorted(self._files) if re.fullmatch(pattern, name)), None)
        if name is None:
            return []
        try:
            return parse(self._read(self._files[name]))
        except (ValueError, PictureError) as error:
            raise UserError(
                f"SOURCE has {name!r}, which cannot be read ({error}): mend it, or give "
                f"--layout folder to do without"
            ) from None

    def rows(self, pattern: str, columns: int) -> list[list[str]]:
        """The fields between blanks of each line that isn't a comment (`#`)."""

        def parse(data: bytes) -> list[list[str]]:
            lines = data.decode("utf-8").splitlines()
            rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
            short = next((row for row in rows if len(row) < columns), None)
            if short is not None:
                raise ValueError(f"the line {' '.join(short)!r} has fewer than {columns} fields")
            return rows

        return self.parsed(pattern, parse)

    def table(self, pattern: str, columns: tuple[str, ...]) -> list[list[str]]:
        """The named columns of a CSV file."""

        def parse(data: bytes) -> list[list[str]]:
            try:
                rows = list(csv.DictReader(data.decode("utf-8-sig").splitlines(), strict=True))
                return [[row[column] for column in columns] for row in rows]
            except (csv.Error, KeyError) as error:
                raise ValueError(
                    f"no column {error}" if isinstance(error, KeyError) else error
                ) from None

        return self.parsed(pattern, parse)

    def box(self, name: str, kinds: Sequence[str] = HEADS_FIRST) -> Box | None:
        """The box in a VOC annotation; None if it's absent, or damaged, which is counted."""
        item = self._files.get(name)
        if item is None:
            return None
        try:
            return read_box(self._read(item), kinds)
        except (ValueError, PictureError):
            self._ignored["damaged annotations"] += 1
            return None
