"""One picture's bytes -> the bytes that a shard holds: checked, upright, RGB, cropped, resized.

A JPEG, PNG or WebP stays untouched, byte for byte, when nothing asks for a change: it's upright, its
mode is RGB or gray of 8 bits, it holds one frame, the box (if any) is the whole picture, the side in
question is at most `size`, and its format is the one asked for, if one is. It's still decoded to its
end, so that what is packed is whole; `--check header` believes a JPEG by its header and its end mark,
ten times as fast: no cut file passes, but damage amid the data does. What has to change is decoded, turned upright, brought to RGB
(`dvae.data.formats` says how), cropped, resized and encoded: JPEG (4:4:4) if no format is asked for.

A picture is blurred by `--min-laplacian` if the variance of the Laplacian (4 neighbours) of its gray
values, 0 … 255, is less: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000.
It's taken of the result, its shorter side shrunk to 128 where that is more, so that one limit fits
pictures of several sizes.

Colour profiles (ICC) aren't applied. Formats: JPEG (MPO too), PNG, WebP, BMP, GIF, TIFF, told by the
bytes, never by the name. Nothing is read with `LOAD_TRUNCATED_IMAGES`.
"""

import contextlib
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple, TextIO

import numpy as np
import simplejpeg
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from dvae.data.formats import FORMATS, MAX_PIXELS, UNREADABLE, UnknownColours, to_rgb
from shards.form import Form
from shards.geometry import Box, BoxError, ShapeError, plan, resized, turned, upright_size
from shards.jpeg import has_end, plain_size

# Loaded here, before there are threads: those of the formats, as all 45 of Pillow's take 40 ms.
_PLUGINS = (
    *(BmpImagePlugin, GifImagePlugin, JpegImagePlugin, MpoImagePlugin),
    *(PngImagePlugin, TiffImagePlugin, WebPImagePlugin),
)
_KEPT = {"PNG": "png", "WEBP": "webp"}  # format -> extension, beside JPEG
_SHARPNESS_SIDE = 128  # pixels
SUBSAMPLING = "444"  # at 64 pixels 2.6 dB better than 4:2:0 in the mean, 6 at worst; 22 % larger


class PictureError(Exception):
    """Why a picture is left out, as `kind: detail`."""


class Prepared(NamedTuple):
    """A picture as it's packed."""

    data: bytes
    extension: str  # jpg, png or webp
    width: int  # pixels
    height: int


@contextlib.contextmanager
def quiet() -> Iterator[TextIO]:
    """Pillow's warnings and log lines and libtiff's messages on odd files go nowhere meanwhile.

    It holds for the whole process, so it goes around threads. Gives stderr, for a progress bar.
    """
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings(), os.fdopen(os.dup(2), "w") as stderr:
        warnings.simplefilter("ignore")
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        try:
            yield stderr
        finally:
            os.dup2(stderr.fileno(), 2)
            logger.setLevel(level)


def prepare(data: bytes, box: Box | None, form: Form) -> Prepared:
    """Check a picture and bring it to the form that is packed.

    Args:
        data: the file's bytes.
        box: x0, y0, x1, y1 to crop to, pixels of the upright picture; None: the whole of it.
        form: what the result has to be like.

    Raises:
        PictureError: the picture can't be packed.
    """
    try:
        if size := plain_size(data):
            _check_pixels(size)
            return _prepare_jpeg(data, size, 1, box, form)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image.size)
            if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and _is_known(data):
                return _prepare_jpeg(data, image.size, orientation_of(image), box, form)
            return _prepare_other(data, image, box, form)
    except UnidentifiedImageError:
        raise PictureError("not a picture: no JPEG, PNG, WebP, BMP, GIF or TIFF") from None
    except Image.DecompressionBombError:
        raise PictureError(f"too many pixels: more than {MAX_PIXELS}") from None
    except BoxError as error:
        raise PictureError(f"box outside the picture or empty: {error}") from None
    except ShapeError as error:
        raise PictureError(str(error)) from None
    except UnknownColours as error:
        raise PictureError(f"unknown colours: {error}") from None
    except MemoryError:
        raise PictureError("too little memory: to decode it") from None
    except UNREADABLE as error:
        raise PictureError(f"damaged: {_reason(error)}") from None


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise PictureError(f"too many pixels: {size[0]}x{size[1]}, more than {MAX_PIXELS}")


def _is_known(data: bytes) -> bool:
    """Whether simplejpeg knows a JPEG's sampling."""
    try:
        simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return False
    return True


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1 … 8 of an opened picture; 1 (upright) if it names none or nonsense."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except UNREADABLE:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def stored_orientation(data: bytes) -> int:
    """EXIF orientation 1 … 8 of a picture's bytes; 1 if they name none or can't be read."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # A PNG's may stand after its pixels, which are decoded to reach it.
            is_small = image.width * image.height <= MAX_PIXELS
            return orientation_of(image) if is_small else 1
    except UNREADABLE:
        return 1


def _prepare_jpeg(
    data: bytes, size: tuple[int, int], orientation: int, box: Box | None, form: Form
) -> Prepared:
    """By simplejpeg, which is faster, and refuses damage that Pillow lets pass."""
    made = plan(upright_size(size, orientation), box, form)
    width, height = size
    if orientation == 1 and not made.is_change and form.format in (None, "jpg"):
        is_believed = form.check == "header" and form.min_laplacian is None and has_end(data)
        if not is_believed:
            gray = simplejpeg.decode_jpeg(data, "GRAY")
            _check_sharpness(Image.fromarray(gray[:, :, 0]), form)
        return Prepared(data, "jpg", width, height)
    factor = made.factor
    least = (-(-height // factor), -(-width // factor)) if factor > 1 else (0, 0)
    pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1])
    if factor > 1 and pixels.shape[:2] != least:
        factor, pixels = 1, simplejpeg.decode_jpeg(data, "RGB")
    upright = turned(Image.fromarray(pixels), orientation)
    return _encode(resized(upright, made, factor, orientation), form)


def _prepare_other(data: bytes, image: Image.Image, box: Box | None, form: Form) -> Prepared:
    extension = _KEPT.get(image.format or "")
    is_still = not getattr(image, "is_animated", False)
    image.load()
    orientation = orientation_of(image)  # after load(), which itself turns a TIFF upright
    made = plan(upright_size(image.size, orientation), box, form)
    is_plain = image.mode in ("RGB", "L") and not image.has_transparency_data
    is_same = is_still and is_plain and orientation == 1 and not made.is_change
    if extension and is_same and form.format in (None, extension):
        _check_sharpness(image, form)
        return Prepared(data, extension, *image.size)
    upright = turned(to_rgb(image), orientation)
    return _encode(resized(upright, made, 1, orientation), form)


def _encode(image: Image.Image, form: Form) -> Prepared:
    _check_sharpness(image, form)
    extension = form.format or "jpg"
    if extension == "jpg":
        pixels = np.ascontiguousarray(np.asarray(image))
        data = simplejpeg.encode_jpeg(pixels, form.quality, "RGB", SUBSAMPLING)
    else:
        file = io.BytesIO()
        image.save(file, extension, quality=form.quality, exif=b"", icc_profile=None)
        data = file.getvalue()
    return Prepared(data, extension, image.width, image.height)


def _check_sharpness(image: Image.Image, form: Form) -> None:
    if form.min_laplacian is None:
        return
    value = laplacian_variance(image)
    if value < form.min_laplacian:
        raise PictureError(
            f"blurred: the Laplacian's variance is {value:.1f}, --min-laplacian {form.min_laplacian}"
        )


def laplacian_variance(image: Image.Image) -> float:
    """How sharp a picture is: see the top. Of pictures with a side under 3 pixels, 0."""
    gray = image.convert("L")
    shorter = min(gray.size)
    if shorter > _SHARPNESS_SIDE:
        scale = _SHARPNESS_SIDE / shorter
        size = (round(gray.width * scale), round(gray.height * scale))
        gray = gray.resize(size, Image.Resampling.BOX)
    if shorter < 3:
        return 0.0
    g = np.asarray(gray).astype(np.int64)
    inner = g[1:-1, 2:] + g[1:-1, :-2] + g[2:, 1:-1] + g[:-2, 1:-1] - 4 * g[1:-1, 1:-1]
    return float(inner.var())


def _reason(error: BaseException) -> str:
    """The first line of an error, without what changes from run to run."""
    text = re.sub(r" (object )?at 0x[0-9a-f]+", "", str(error) or type(error).__name__)
    return " ".join(text.split())[:160]
