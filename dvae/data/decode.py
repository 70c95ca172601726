"""Pixels: a picture's bytes, a square crop of it, antialiased to the size of the batch.

JPEG goes through libjpeg-turbo at scale 1, 1/2 or 1/4 (the others have no SIMD and are slower), the
largest reduction that leaves 1.4 times the wanted size; everything else through Pillow.
"""

import io
from collections.abc import Callable
from threading import local
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dvae.data.formats import FORMATS, UNREADABLE, to_rgb
from dvae.data.reader import BadSample, Picture

MARGIN = 1.4  # a scaled decode keeps at least so many times the wanted pixels
SCALES = (4, 2)  # 1/4 and 1/2
JPEG_MAGIC = b"\xff\xd8\xff"
SCRATCH_BYTES = 4 << 20  # a picture of 1.4 megapixels; larger ones take memory of their own

# What functional.interpolate(mode="bilinear", antialias=True) calls; only here it takes `out`.
_antialiased: Callable[..., Tensor] = torch._C._nn._upsample_bilinear2d_aa


class _Scratch(local):
    """Memory of one thread, used for picture after picture: fresh memory costs page faults."""

    def __init__(self) -> None:
        self.pixels = np.empty(SCRATCH_BYTES, dtype=np.uint8)
        self.square = np.empty(SCRATCH_BYTES, dtype=np.uint8)
        self.rows = np.empty(SCRATCH_BYTES, dtype=np.uint8)


_scratch = _Scratch()


class Crop(NamedTuple):
    """A square of a picture, drawn before its size is known."""

    side: float = 1.0  # share of the shorter side, in (0, 1]
    x: float = 0.5  # place along the room that is left, in [0, 1]; 0.5 is the centre
    y: float = 0.5


def decode(picture: Picture, out: np.ndarray, crop: Crop, max_pixels: int) -> None:
    """Decode a picture, crop it and write it into a slot of the batch.

    Args:
        picture: the bytes of a JPEG, PNG, WebP …
        out: (S, S, 3) uint8, written in place.
        crop: which square of the upright picture.
        max_pixels: a larger picture is refused from its header.

    Raises:
        BadSample: the bytes are no whole picture, or too large a one.
    """
    size = out.shape[0]
    try:
        pixels, box = _decoded(picture, size, crop, max_pixels)
    except UNREADABLE as error:
        raise BadSample(f"it can't be decoded: {error}"[:200]) from None
    x, y, side = box
    _resize(pixels[y : y + side, x : x + side], out)


def _decoded(
    picture: Picture, size: int, crop: Crop, max_pixels: int
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """RGB pixels (h, w, 3) at some scale, and the crop's x, y and side on them."""
    if picture.data[: len(JPEG_MAGIC)] != JPEG_MAGIC or picture.orientation != 1:
        pixels = _by_pillow(picture.data, max_pixels)
        return pixels, _square(pixels.shape[1], pixels.shape[0], crop)
    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(picture.data)
    _check_pixels(width, height, max_pixels)
    if colorspace in ("CMYK", "YCCK"):
        pixels = _by_pillow(picture.data, max_pixels)
        return pixels, _square(width, height, crop)
    x, y, side = _square(width, height, crop)
    scale = reduction(side, size)
    height, width = -(-height // scale), -(-width // scale)
    pixels = simplejpeg.decode_jpeg(
        picture.data,
        "RGB",
        min_height=height,
        min_width=width,
        min_factor=1,
        buffer=_scratch.pixels if height * width * 3 <= SCRATCH_BYTES else None,
    )
    # Snapped to whole pixels of the scaled picture: a fraction of one would blur or shift the crop.
    return pixels, (x // scale, y // scale, side // scale)


def reduction(side: int, size: int) -> int:
    """By how much a JPEG is reduced in decoding for a crop of `side` pixels: 1, 2 or 4."""
    return next((d for d in SCALES if side / d >= MARGIN * size), 1)


def _square(width: int, height: int, crop: Crop) -> tuple[int, int, int]:
    side = max(1, round(crop.side * min(width, height)))
    return round(crop.x * (width - side)), round(crop.y * (height - side)), side


def _by_pillow(data: bytes | memoryview, max_pixels: int) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_pixels(image.width, image.height, max_pixels)
        return np.array(to_rgb(ImageOps.exif_transpose(image)))


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadSample(f"{width}x{height} pixels are more than data.max_pixels={max_pixels}")


def _resize(square: np.ndarray, out: np.ndarray) -> None:
    """Resize (side, side, 3), antialiased, into (S, S, 3)."""
    side, size = square.shape[0], out.shape[0]
    if side == size:
        out[:] = square
        return
    dense = _room(_scratch.square, side, side)  # the kernel pads a strided one to 4 channels
    np.copyto(dense, square)
    source = _planes(dense)
    if side > size:
        # The columns first: shrinking those is the cheaper half, and leaves fewer rows to the other.
        rows = _planes(_room(_scratch.rows, size, side))
        source = _antialiased(source, (size, side), False, None, None, out=rows)
    _antialiased(source, (size, size), False, None, None, out=_planes(out))


def _room(scratch: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w, 3) of a thread's memory, or of fresh one where that's too small."""
    count = height * width * 3
    memory = scratch[:count] if count <= len(scratch) else np.empty(count, dtype=np.uint8)
    return memory.reshape(height, width, 3)


def _planes(pixels: np.ndarray) -> Tensor:
    """(h, w, 3) -> (1, 3, h, w), channels last: the same memory."""
    return torch.from_numpy(pixels[None]).permute(0, 3, 1, 2)
