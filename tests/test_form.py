"""The form of packed pictures: sizes, margins, limits, formats and sharpness, each by its option."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from shards.form import Form
from shards.pack import main
from shards.pictures import PictureError, laplacian_variance, prepare
from tests.conftest import DOGS
from tests.pictures_on_disk import drawn, encoded, rejected, samples, write_files


def gradient(width, height):
    y, x = np.mgrid[0:height, 0:width]
    planes = (x * 255 / width, y * 255 / height, (x * y) % 97)
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def size_of(prepared):
    return prepared.width, prepared.height


@pytest.mark.parametrize(
    ("resize", "size", "wanted"),
    [
        ("shorter", 20, (30, 20)),
        ("shorter", 41, (60, 40)),
        ("longer", 30, (30, 20)),
        ("longer", 60, (60, 40)),
        ("longer", 1, (1, 1)),
        ("crop", 20, (20, 20)),
        ("crop", 64, (40, 40)),
        ("none", None, (60, 40)),
    ],
)
def test_resize_says_which_side_the_size_means(resize, size, wanted):
    data = encoded(gradient(60, 40), "PNG")
    made = prepare(data, None, Form(resize=resize, size=size))
    assert size_of(made) == wanted
    assert (made.data == data) == (wanted == (60, 40))


def test_a_square_is_cut_from_the_centre_of_the_box():
    picture = gradient(90, 60)
    made = prepare(
        encoded(picture, "PNG"), (10, 0, 80, 40), Form(resize="crop", size=40, format="png")
    )
    wanted = np.asarray(picture.crop((25, 0, 65, 40)))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(made.data))), wanted)


@pytest.mark.parametrize(
    ("margin", "box"), [(0.0, (10, 20, 30, 30)), (0.25, (5, 18, 35, 32)), (2.0, (0, 0, 60, 40))]
)
def test_a_margin_widens_a_box_as_far_as_the_picture_reaches(margin, box):
    picture = gradient(60, 40)
    form = Form(box_margin=margin, format="png")
    made = prepare(encoded(picture, "BMP"), (10, 20, 30, 30), form)
    pixels = np.asarray(Image.open(io.BytesIO(made.data)))
    assert np.array_equal(pixels, np.asarray(picture.crop(box)))


@pytest.mark.parametrize(
    ("form", "box", "reason"),
    [
        (Form(min_size=41), None, "too small: 60x40 pixels, --min-size 41"),
        (Form(min_size=20), (0, 0, 60, 19), "too small: 60x19 pixels, --min-size 20"),
        (Form(max_aspect=1.4), None, "too elongated: 60x40 pixels, --max-aspect 1.4"),
        (Form(max_aspect=2, size=8, resize="crop"), (0, 0, 60, 9), "too elongated: 60x9"),
    ],
)
def test_small_and_elongated_pictures_are_left_out(form, box, reason):
    with pytest.raises(PictureError, match=reason):
        prepare(encoded(gradient(60, 40)), box, form)
    assert size_of(prepare(encoded(gradient(60, 40)), None, Form(min_size=40, max_aspect=1.5)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("wanted", ["jpg", "png", "webp"])
def test_a_format_that_is_asked_for_is_what_every_picture_gets(kind, wanted):
    data = encoded(gradient(60, 40), kind)
    made = prepare(data, None, Form(format=wanted, quality=90))
    image = Image.open(io.BytesIO(made.data))
    assert made.extension == wanted
    assert image.format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[wanted]
    assert (made.data == data) == (image.format == kind)
    if wanted == "png":
        source = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        assert np.abs(np.asarray(image).astype(int) - source).max() <= (3 if kind == "JPEG" else 0)


@pytest.mark.parametrize("wanted", ["jpg", "webp"])
def test_quality_is_that_of_the_asked_format(wanted):
    data = encoded(gradient(60, 40), "BMP")
    low, high = (prepare(data, None, Form(format=wanted, quality=q)).data for q in (10, 95))
    assert len(low) < len(high)


def test_the_laplacians_variance_is_that_of_a_plain_loop():
    image = gradient(31, 17)
    gray = np.asarray(image.convert("L")).astype(float)
    values = [
        gray[y - 1, x] + gray[y + 1, x] + gray[y, x - 1] + gray[y, x + 1] - 4 * gray[y, x]
        for y in range(1, 16)
        for x in range(1, 30)
    ]
    assert laplacian_variance(image) == pytest.approx(np.var(values), rel=1e-12)
    assert laplacian_variance(image.crop((0, 0, 2, 9))) == 0
    assert laplacian_variance(Image.new("RGB", (300, 300), "red")) == 0


@pytest.mark.skipif(not DOGS.is_dir(), reason=f"no photographs in {DOGS}")
def test_blur_lowers_the_measure_of_every_photograph_at_any_size():
    for path in sorted((DOGS / "snapshots").glob("*.jpg"))[:30]:
        image = Image.open(path).convert("RGB")
        blurred = image.filter(ImageFilter.GaussianBlur(min(image.size) / 32))
        assert laplacian_variance(blurred) < 0.25 * laplacian_variance(image)


def test_what_the_limits_leave_out_is_named_and_the_rest_is_packed(tmp_path):
    sharp = encoded(
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8))
    )
    flat = encoded(Image.new("RGB", (60, 50), (90, 100, 110)))
    files = {
        "sharp.jpg": sharp,
        "flat.jpg": flat,
        "flat.png": encoded(Image.new("L", (60, 50)), "PNG"),
    }
    files |= {"small.jpg": drawn(1, side=20), "long.png": encoded(gradient(300, 50), "PNG")}
    folder = write_files(tmp_path / "photos", files)
    limits = ["--min-size", "40", "--max-aspect", "3", "--min-laplacian", "50"]
    assert main([str(folder), str(tmp_path / "out"), *limits]) == 0
    assert [about["source"] for _, _, about in samples(tmp_path / "out")] == ["sharp.jpg"]
    kinds = {name: reason.split(":")[0] for name, reason in rejected(tmp_path / "out").items()}
    assert kinds == {
        "flat.jpg": "blurred",
        "flat.png": "blurred",
        "small.jpg": "too small",
        "long.png": "too elongated",
    }


def test_other_limits_are_another_data_set(tmp_path, capsys):
    folder = write_files(tmp_path / "photos", {"a.jpg": drawn(1)})
    assert main([str(folder), str(tmp_path / "out"), "--max-aspect", "3"]) == 0
    assert main([str(folder), str(tmp_path / "out"), "--max-aspect", "3"]) == 0
    assert main([str(folder), str(tmp_path / "out")]) == 2
    assert "made otherwise (max_aspect: 3.0, asked None)" in capsys.readouterr().err
