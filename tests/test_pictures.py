"""shards/pictures.py: which pictures stay as they are, and what becomes of the others."""

import io
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, ImageOps

from dvae.data.formats import MAX_PIXELS
from shards.form import Form
from shards.pictures import (
    SUBSAMPLING,
    PictureError,
    prepare,
    quiet,
    stored_orientation,
)


@pytest.fixture(autouse=True)
def _quiet():
    with quiet():
        yield


def gradient(width, height):
    """A smooth picture without any symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    planes = (x * 255 / width, y * 255 / height, (x * y) % 97)
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_orientation(image, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, kind, exif=exif)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def encoded(image, quality=92):
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(np.asarray(image)), quality, "RGB", SUBSAMPLING
    )


@pytest.mark.parametrize(
    ("data", "extension"),
    [
        (saved(gradient(40, 30), "JPEG"), "jpg"),
        (saved(gradient(40, 30), "JPEG", progressive=True, subsampling=0), "jpg"),
        (saved(gradient(40, 30).convert("L"), "JPEG"), "jpg"),
        (saved(gradient(40, 30), "JPEG") + b"trailing bytes", "jpg"),
        (saved(gradient(40, 30), "PNG"), "png"),
        (saved(gradient(40, 30).convert("L"), "PNG"), "png"),
        (saved(gradient(40, 30), "WEBP"), "webp"),
        (with_orientation(gradient(40, 30), "JPEG", 1), "jpg"),
    ],
)
@pytest.mark.parametrize("size", [None, 30, 64])
def test_what_needs_no_change_stays_byte_for_byte(data, extension, size):
    assert prepare(data, (0, 0, 40, 30), Form(size=size)) == (data, extension, 40, 30)


def large_exif():
    exif = Image.Exif()
    exif[0x927C] = b"\xff\xd9" * 32_000  # a maker's note as long as a segment may be
    return saved(gradient(40, 30), "JPEG", exif=exif)


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ODD_JPEGS = {
    "a profile": saved(gradient(40, 30), "JPEG", icc_profile=PROFILE),
    "a damaged profile of two segments": saved(gradient(40, 30), "JPEG", icc_profile=b"x" * 99_999),
    "a large EXIF": large_exif(),
    "two pictures": saved(gradient(40, 30), "MPO", save_all=True, append_images=[gradient(30, 40)]),
    "trailing bytes": saved(gradient(40, 30), "JPEG") + b"trailing",
}


@pytest.mark.parametrize("name", ODD_JPEGS)
@pytest.mark.parametrize("check", ["decode", "header"])
def test_odd_jpegs_stay_as_they_are_or_become_plain_ones_of_the_same_pixels(name, check):
    data, plain = ODD_JPEGS[name], saved(gradient(40, 30), "JPEG")
    assert prepare(data, None, Form(check=check)) == (data, "jpg", 40, 30)
    assert prepare(data, None, Form(size=20)) == prepare(plain, None, Form(size=20))
    cut = data.rindex(b"\xff\xd9") - 20 if name != "two pictures" else len(plain) // 2
    with pytest.raises(PictureError, match="^damaged"):
        prepare(data[:cut], None, Form())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pixels_come_out_upright_as_pillow_turns_them(kind, orientation):
    data = with_orientation(gradient(41, 27), kind, orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    made = prepare(data, None, Form())
    assert (made.width, made.height) == upright.size
    assert stored_orientation(made.data) == 1
    if orientation > 1 or kind == "TIFF":
        assert made.data == encoded(upright)
    else:
        assert made.data == data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_scaled_decode_gives_the_place_that_a_full_one_gives(orientation):
    data = with_orientation(gradient(403, 301), "JPEG", orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    box = (11, 22, 211, 252)
    made = prepare(data, box, Form(size=48, quality=100))
    right = upright.resize((48, 55), Image.Resampling.LANCZOS, box=box)
    assert (made.width, made.height) == (48, 55)
    assert np.abs(pixels(made.data) - np.asarray(right)).mean() < 1.5


@pytest.mark.parametrize(
    ("size", "result"), [(None, (60, 40)), (20, (30, 20)), (40, (60, 40)), (64, (60, 40))]
)
def test_the_shorter_side_shrinks_and_never_grows(size, result):
    made = prepare(saved(gradient(60, 40), "BMP"), None, Form(size=size))
    assert (made.width, made.height) == result


def test_a_box_is_cut_to_the_pixel():
    picture = gradient(60, 40)
    made = prepare(saved(picture, "PNG"), (3, 5, 50, 36), Form())
    assert made.data == encoded(picture.crop((3, 5, 50, 36)))


@pytest.mark.parametrize(
    "box", [(0, 0, 61, 40), (-1, 0, 5, 5), (5, 5, 5, 9), (9, 9, 5, 5), (0, 0, 10**30, 1)]
)
def test_a_box_outside_the_picture_or_empty_is_refused(box):
    with pytest.raises(PictureError, match="box outside the picture or empty"):
        prepare(saved(gradient(60, 40), "PNG"), box, Form())


def flat(mode, colour):
    return Image.new(mode, (16, 16), colour)


def palette(transparency):
    image = flat("P", 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return saved(image, "PNG", **transparency)


RED_THEN_BLUE = {"save_all": True, "append_images": [flat("RGB", (0, 0, 255))], "lossless": True}


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (saved(flat("RGBA", (200, 0, 100, 51)), "PNG"), (244, 204, 224)),
        (saved(flat("RGBA", (200, 0, 100, 0)), "WEBP", exact=True), (255, 255, 255)),
        (saved(flat("LA", (100, 51)), "PNG"), (224, 224, 224)),
        (saved(flat("RGB", (1, 2, 3)), "PNG", transparency=(1, 2, 3)), (255, 255, 255)),
        (palette({}), (200, 100, 50)),
        (palette({"transparency": b"\xff\x33"}), (244, 224, 214)),
        (saved(flat("1", 1), "PNG"), (255, 255, 255)),
        (saved(flat("1", 0), "TIFF"), (0, 0, 0)),
        (saved(flat("I;16", 257 * 77 + 100), "PNG"), (77, 77, 77)),
        (saved(flat("I;16", 257 * 77 + 200), "TIFF"), (78, 78, 78)),
        (saved(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0)),
        (saved(flat("CMYK", (0, 0, 0, 155)), "TIFF"), (100, 100, 100)),
        (saved(flat("L", 90), "BMP"), (90, 90, 90)),
        (saved(flat("RGB", (255, 0, 0)), "GIF", **RED_THEN_BLUE), (255, 0, 0)),
        (saved(flat("RGB", (255, 0, 0)), "PNG", **RED_THEN_BLUE), (255, 0, 0)),
        (saved(flat("RGB", (255, 0, 0)), "WEBP", **RED_THEN_BLUE), (255, 0, 0)),
        (saved(flat("RGB", (255, 0, 0)), "TIFF", save_all=True), (255, 0, 0)),
    ],
)
def test_each_mode_becomes_rgb_by_its_rule(data, colour):
    made = prepare(data, None, Form(quality=100))
    assert made.extension == "jpg"
    assert made == prepare(data, None, Form(quality=100))
    assert np.abs(pixels(made.data) - colour).max() <= 2


def bomb(width, height):
    data = bytearray(saved(flat("RGB", (0, 0, 0)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


JPEG = saved(gradient(64, 64), "JPEG")
STUFFED = JPEG[:-2] + bytes(50) + JPEG[-2:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a picture"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (saved(gradient(9, 9), "PPM"), "not a picture"),
        (JPEG[: len(JPEG) // 2], "damaged"),
        (JPEG[:-2], "damaged: Premature end"),
        (STUFFED, "damaged: Corrupt JPEG data"),
        (saved(gradient(64, 64), "PNG")[:-400], "damaged"),
        (saved(gradient(64, 64), "WEBP")[:-40], "damaged"),
        (saved(gradient(64, 64), "BMP")[:-40], "damaged"),
        (saved(gradient(64, 64), "TIFF")[:4000], "damaged|not a picture"),
        (bomb(8001, 8001), f"too many pixels: 8001x8001, more than {MAX_PIXELS}"),
        (bomb(30_000, 30_000), f"too many pixels: more than {MAX_PIXELS}"),
        (saved(flat("F", 0.5), "TIFF"), "unknown colours: mode F"),
        (saved(flat("I", 9), "TIFF"), "unknown colours: mode I"),
        (saved(flat("LAB", (9, 9, 9)), "TIFF"), "unknown colours: mode LAB"),
    ],
)
@pytest.mark.parametrize("size", [None, 8])
def test_what_cannot_be_packed_is_refused_with_a_reason(data, reason, size):
    with pytest.raises(PictureError, match=f"^({reason})"):
        prepare(data, None, Form(size=size))


def test_every_cut_that_costs_pixels_is_refused():
    for kind in ("JPEG", "PNG", "WEBP"):
        data = saved(gradient(24, 24), kind)
        for end in range(0, len(data) - (24 if kind == "PNG" else 0), 7):
            with pytest.raises(PictureError):
                prepare(data[:end], None, Form())
