"""A tar's header block: its numbers, and whether it's whole."""

import zlib

BLOCK = 512  # bytes; headers are one block, data is padded to whole blocks
_CHECKSUM = slice(148, 156)  # counts as spaces in the sum
_ADLER = 65521  # the modulus of Adler-32, whose lower half is 1 + the sum of the bytes


def number(field: bytes) -> int | None:
    """An octal or base-256 number >= 0, or None."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.translate(None, b"01234567"):
        return None
    return int(digits or b"0", 8)


def is_whole(block: bytes) -> bool:
    """Whether a header has the checksum that it names; one flipped bit is always found.

    By Adler-32, because Python's own sum costs ten times as much and every picture pays for it.
    """
    named = number(block[_CHECKSUM])
    if named is None:
        return False
    summed = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    unsigned = (zlib.adler32(summed) & 0xFFFF) - 1
    if (named - unsigned) % _ADLER == 0:
        return True
    signed = unsigned - 256 * sum(byte >> 7 for byte in summed)  # what some old tars write
    return (named - signed) % _ADLER == 0
