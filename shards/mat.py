"""Lists of texts in MATLAB files (level 5), as Stanford Dogs' train_list.mat has them.

"MAT-File Format", The MathWorks: after a header of 128 bytes come elements, each with a type and a
size; a matrix holds elements for its flags, dimensions, name and data; cells hold matrices.
"""

import struct
import zlib
from collections.abc import Iterator

_HEADER = 128  # bytes
_COMPRESSED, _MATRIX = 15, 14
_CELL, _CHARACTERS = 1, 4  # classes of matrices
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MAX_BYTES = 64 << 20  # of one compressed element, unpacked


def read_texts(data: bytes, name: str) -> list[str]:
    """The texts in the cell array `name`, in its order.

    Raises:
        ValueError: it's no such file, or holds no such array.
    """
    try:
        if data[126:128] not in (b"IM", b"MI"):
            raise ValueError("no MATLAB file of level 5")
        order = "<" if data[126:128] == b"IM" else ">"
        for kind, body in _elements(data[_HEADER:], order):
            if kind == _COMPRESSED:
                unpacked = zlib.decompressobj().decompress(body, _MAX_BYTES)
                kind, body = next(_elements(unpacked, order))
            parts = list(_elements(body, order)) if kind == _MATRIX else []
            if len(parts) > 2 and parts[2][1] == name.encode():
                if _class(parts, order) != _CELL:
                    raise ValueError(f"{name!r} is no cell array")
                cells = [cell for kind, cell in parts[3:] if kind == _MATRIX]
                return [_text(cell, order) for cell in cells]
    except (struct.error, zlib.error, StopIteration, IndexError) as error:
        raise ValueError(f"damaged: {error}") from None
    raise ValueError(f"no cell array {name!r}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The type and the bytes of each element that follows another."""
    place = 0
    while place + 8 <= len(data):
        (word,) = struct.unpack_from(order + "I", data, place)
        if word >> 16:  # a small element: type, size and at most 4 bytes in 8
            kind, size, start = word & 0xFFFF, word >> 16, place + 4
            place += 8
        else:
            (size,) = struct.unpack_from(order + "I", data, place + 4)
            kind, start = word, place + 8
            place = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(data):
            raise ValueError("damaged: an element reaches behind the end")
        yield kind, data[start : start + size]


def _text(cell: bytes, order: str) -> str:
    """The text of a matrix of characters."""
    parts = list(_elements(cell, order))
    if _class(parts, order) != _CHARACTERS:
        raise ValueError("a cell that isn't a text")
    kind, body = parts[3] if len(parts) > 3 else (1, b"")
    encoding = _ENCODINGS.get(kind, "")
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if order == "<" else "-be"
    return body.decode(encoding)


def _class(parts: list[tuple[int, bytes]], order: str) -> int:
    flags: int = struct.unpack_from(order + "I", parts[0][1])[0]
    return flags & 0xFF
