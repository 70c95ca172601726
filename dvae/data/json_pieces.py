"""JSON read piece by piece: a manifest of a million shards is never in memory as a whole."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from json import JSONDecodeError
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_scan = json.JSONDecoder().raw_decode


class JsonPieces:
    """A document whose objects and arrays are walked through, or read as values.

    Raises:
        ValueError: it isn't JSON in UTF-8; a `JSONDecodeError` that says where.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._texts = codecs.iterdecode(pieces, "utf-8-sig")
        self._text, self._at = "", 0  # what has come, and where reading goes on
        self._one_by_one = 0  # before here elements are read singly

    def peek(self) -> str:
        """The next character that isn't space; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space
            self._at = space.end()
            if self._at < len(self._text) or not self._more(1):
                return self._text[self._at : self._at + 1]

    def take(self, expected: str) -> str:
        """The next character, one of those that are expected."""
        found = self.peek()
        if not found or found not in expected:
            raise JSONDecodeError(f"expecting one of {expected}", self._text, self._at)
        self._at += 1
        return found

    def members(self) -> Iterator[str]:
        """The keys of an object; read the value of each before the next.

        Raises:
            TypeError: another kind of value is there.
        """
        for _ in self._entries("{", "}"):
            if self.peek() != '"':
                raise JSONDecodeError("expecting a key", self._text, self._at)
            key = self.value()
            self.take(":")
            yield key

    def chunks(self) -> Iterator[list[Any]]:
        """The elements of an array, many at a time.

        Raises:
            TypeError: another kind of value is there.
        """
        for _ in self._entries("[", "]"):
            yield self._complete() or [self.value()]

    def end(self) -> None:
        """Nothing may follow."""
        if self.peek():
            raise JSONDecodeError("expecting the end", self._text, self._at)

    def _entries(self, opening: str, closing: str) -> Iterator[None]:
        """Halts before each entry of what stands in brackets; whoever goes on has read it."""
        if self.peek() != opening:
            raise TypeError(f"{type(self.value()).__name__} where {opening} begins another value")
        self.take(opening)
        if self.peek() == closing:
            self.take(closing)
            return
        while True:
            yield
            if self.take("," + closing) == closing:
                return

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            found: Any = None
            error: JSONDecodeError | None = None
            try:
                found, end = _scan(self._text, self._at)
            except JSONDecodeError as wrong:
                error, end = wrong, len(self._text)
            if end + 2 >= len(self._text) and self._more(end - self._at):
                continue  # it may go on: what was cut, or a number, of which 1. or 1e- has come
            if error:
                raise error
            self._at = end
            return found

    def _complete(self) -> list[Any]:
        """The next elements of an array of objects, if any have come whole.

        What stands before an object's end is read as an array of its own, which ends there or sooner.
        """
        if self._at < self._one_by_one:
            return []
        end = self._text.rfind("},", self._at) + 1
        if not end:  # or each element would be searched for it in vain
            self._one_by_one = len(self._text)
            return []
        try:
            found, stop = _scan(f"[{self._text[self._at : end]}]")
        except JSONDecodeError:  # it was no object's end
            self._one_by_one = end
            return []
        self._at += stop - len("[]")
        return list(found)

    def _more(self, least: int) -> bool:
        """Add at least so many characters to what has come, if there are any."""
        parts = [self._text[self._at :]]
        wanted = least
        for text in self._texts:
            parts.append(text)
            wanted -= len(text)
            if wanted <= 0:
                break
        has_come = len(parts) > 1
        if has_come:
            self._one_by_one -= self._at
            self._text, self._at = "".join(parts), 0
        return has_come
