"""What is a picture, and what its colours become: one answer for packing and for reading.

mode in the file                       becomes RGB by
RGB, YCbCr; 16 bits a colour           itself; the upper 8 bits
gray, 1 bit                            the gray value three times
16-bit gray (I;16)                     value / 257, rounded
palette                                its colours
transparency (RGBA, LA, PA, tRNS)      composing over white
CMYK, YCCK                             Pillow's conversion, no ink profile
animation, several pages               the first frame or page
32-bit integers, floats, Lab, HSV      refused: no fixed range or meaning
"""

import struct
import zlib

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # what Pillow may open, whatever the name
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # in any case
MAX_PIXELS = 64_000_000  # of a picture's header; more is refused before decoding
MAX_BYTES = 256 << 20  # of a picture's file; a larger one is refused unread
MAX_JSON_BYTES = 16 << 20  # of what stands beside it
# What Pillow's and libjpeg-turbo's readers are known to raise on bytes that are no picture.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,  # NotImplementedError and RecursionError too
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnknownColours(ValueError):  # noqa: N818 - an outcome that is counted
    """A mode without a defined conversion to RGB."""


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded picture in RGB, as the table at the top says.

    Raises:
        UnknownColours: a mode that the table refuses.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(white, seen).convert("RGB")
    elif image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise UnknownColours(f"mode {image.mode} has no defined conversion to RGB")
    return image.convert("RGB")
