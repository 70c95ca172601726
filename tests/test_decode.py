"""Pixels: quality against a full decode by Pillow, crops, formats, refusals."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from dvae.data.decode import Crop, decode
from dvae.data.reader import BadSample, Picture

from .conftest import DOGS


def photo(width=300, height=240, seed=0):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (12, 15, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data, size, crop=None, orientation=1, max_pixels=10**7):
    out = np.zeros((size, size, 3), dtype=np.uint8)
    decode(Picture(data, orientation), out, crop or Crop(), max_pixels)
    return out


def by_pillow(data, size, crop=None):
    crop = crop or Crop()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = round(crop.side * min(image.size))
    x, y = round(crop.x * (image.width - side)), round(crop.y * (image.height - side))
    scale = next((d for d in (4, 2) if side / d >= 1.4 * size), 1) if image_is_jpeg(data) else 1
    x, y, side = x // scale * scale, y // scale * scale, side // scale * scale
    box = (x, y, x + side, y + side)  # the crop is drawn on the scaled grid
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def image_is_jpeg(data):
    return data.startswith(b"\xff\xd8")


def psnr(a, b):
    error = (a.astype(float) - b.astype(float)) ** 2
    return 10 * np.log10(255**2 / max(error.mean(), 1e-10))


@pytest.mark.parametrize("size", [32, 64, 127, 240])
@pytest.mark.parametrize("crop", [Crop(), Crop(0.8, 0.1, 0.9), Crop(0.5, 1.0, 0.0)])
def test_jpeg_is_as_good_as_a_full_decode_and_an_antialiased_resize(size, crop):
    data = encoded(photo(), quality=95)
    assert psnr(decoded(data, size, crop), by_pillow(data, size, crop)) > 38


def test_real_photographs_keep_45_db_on_average():
    if not DOGS.is_dir():
        pytest.skip(f"the photographs are not at {DOGS}")
    files = sorted((DOGS / "breeds").glob("*/*.jpg"))[::20]
    values = []
    for file in files:
        data = file.read_bytes()
        values += [psnr(decoded(data, size), by_pillow(data, size)) for size in (64, 127)]
    assert np.mean(values) > 45, (np.mean(values), min(values))


def test_pictures_of_every_size_decode_alike_on_threads_and_one_by_one():
    sides = [40, 1300, 64, 130, 1250, 100, 300, 70]  # 1250 and 1300: beyond a thread's own memory
    pictures = [encoded(photo(side, side, seed)) for seed, side in enumerate(sides)]
    jobs = [(data, size) for data in pictures for size in (32, 64, 1000)]
    alone = [decoded(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: decoded(*job), jobs * 3))
    assert all(np.array_equal(a, b) for a, b in zip(alone * 3, together, strict=True))


def test_a_picture_of_the_wanted_size_is_not_resized():
    image = photo(48, 48)
    out = decoded(encoded(image, "PNG"), 48)
    assert np.array_equal(out, np.asarray(image))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_other_formats_go_through_pillow(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(photo(64, 64), kind, **options)
    assert psnr(decoded(data, 64), by_pillow(data, 64)) > 60


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_every_jpeg_mode_becomes_rgb(mode):
    data = encoded(photo(64, 64).convert(mode), quality=95)
    assert psnr(decoded(data, 32), by_pillow(data, 32)) > 38


def test_16_bit_gray_is_read_as_it_is_packed():
    from shards.form import Form
    from shards.pictures import prepare

    values = np.linspace(0, 65535, 40 * 40).astype(np.uint16).reshape(40, 40)
    data = encoded(Image.fromarray(values), "PNG")
    read = decoded(data, 40).astype(int)
    packed = decoded(prepare(data, None, Form(quality=100)).data, 40).astype(int)
    assert np.abs(read - (values[:, :, None] / 257)).max() <= 0.51
    assert np.abs(read - packed).mean() < 2


def test_transparent_pixels_become_white():
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert (decoded(encoded(image, "PNG"), 20) == 255).all()


def test_a_turned_picture_is_set_upright():
    image = photo(60, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, quality=95, exif=exif)
    upright = encoded(image.transpose(Image.Transpose.ROTATE_270), quality=95)
    assert psnr(decoded(data, 40, orientation=6), decoded(upright, 40)) > 35


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "decoded"),
        (b"version https://git-lfs.github.com/spec/v1\n", "decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "decoded"),
        (encoded(photo(), quality=95)[:2000], "decoded"),
        (encoded(photo(64, 64), "PNG")[:200], "decoded"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 100, "decoded"),
    ],
    ids=["empty", "text", "eps", "cut jpeg", "cut png", "header only"],
)
def test_what_is_no_whole_picture_is_a_bad_sample(data, reason):
    with pytest.raises(BadSample, match=reason):
        decoded(data, 32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_over_the_limit_is_refused_from_its_header(kind):
    with pytest.raises(BadSample, match="max_pixels=1000"):
        decoded(encoded(photo(100, 100), kind), 32, max_pixels=1000)
