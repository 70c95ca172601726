"""The header of a plain JPEG, walked by hand: several times as fast as opening it with a library."""

import struct

_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_segment_at = struct.Struct(">BBH").unpack_from  # 0xFF, kind, length
_FRAME = struct.Struct(">BHHB")  # bits, height, width, components
_SAMPLINGS = [bytes([luma, 0x11, 0x11]) for luma in (0x11, 0x21, 0x12, 0x22, 0x41)]
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
# Tables, restarts, APP0, ICC, notes of programs, comments.
_SKIPPED = {0xC4, 0xDB, 0xDD, 0xE0, 0xE2, *range(0xE3, 0xEE), 0xEF, 0xFE}


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Width and height, pixels, of an upright 8-bit JPEG, gray or YCbCr in a usual sampling.

    None for all that a decoder should look at: EXIF and XMP (which may turn it), several pictures in
    one file, Adobe's colours, and whatever is odd.
    """
    if data[:2] != b"\xff\xd8":
        return None
    place, size = 2, None
    while place + 4 <= len(data):
        mark, kind, length = _segment_at(data, place)
        body, place = place + 4, place + 2 + length
        if mark != 0xFF:
            return None
        if kind in _SKIPPED:
            if kind == 0xE2 and data[body : body + 4] != b"ICC_":
                return None
        elif kind in _FRAMES and not size:
            size = _size(data[body:place])
            if not size:
                return None
        else:
            return size if kind == 0xDA else None
    return None


def _size(frame: bytes) -> tuple[int, int] | None:
    if len(frame) < _FRAME.size:
        return None
    bits, height, width, components = _FRAME.unpack_from(frame)
    is_gray = components == 1 and len(frame) == 9
    is_colour = components == 3 and frame[6::3] == b"\1\2\3" and frame[7::3] in _SAMPLINGS
    return (width, height) if bits == 8 and width and height and (is_gray or is_colour) else None


def has_end(data: bytes) -> bool:
    """Whether the end mark follows the last scan's start; a cut file has none there."""
    end = data.rfind(_END)
    return end >= 0 and data.find(_SCAN, end) < 0
