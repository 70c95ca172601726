"""--check header: JPEGs believed by their header and end, walked by hand, against real decoders."""

import io

import numpy as np
import pytest
from PIL import Image

from shards.form import Form
from shards.jpeg import plain_size
from shards.pictures import PictureError, prepare, quiet
from tests.conftest import DOGS
from tests.test_pictures import gradient, saved, with_orientation

HEADER = Form(check="header")
PICTURE = gradient(41, 27)
PLAIN = {
    **{f"sampling {n}": saved(PICTURE, "JPEG", subsampling=n) for n in (0, 1, 2)},
    "progressive": saved(PICTURE, "JPEG", progressive=True),
    "gray": saved(PICTURE.convert("L"), "JPEG"),
    "restarts, comment, profile": saved(
        PICTURE, "JPEG", restart_marker_rows=1, comment=b"c", icc_profile=bytes(200)
    ),
    "trailing": saved(PICTURE, "JPEG") + b"trailing \xff\xda bytes",
}
ODD = {
    "EXIF": with_orientation(PICTURE, "JPEG", 6),
    "CMYK": saved(PICTURE.convert("CMYK"), "JPEG"),
    "RGB": saved(PICTURE, "JPEG", keep_rgb=True),
    "PNG": saved(PICTURE, "PNG"),
}


@pytest.fixture(autouse=True)
def _quiet():
    with quiet():
        yield


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
def test_a_plain_jpeg_has_the_size_that_a_decoder_finds(data):
    assert plain_size(data) == Image.open(io.BytesIO(data)).size == (41, 27)


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_what_a_decoder_should_look_at_is_left_to_one(data):
    assert plain_size(data) is None


@pytest.mark.parametrize("data", (PLAIN | ODD).values(), ids=PLAIN | ODD)
@pytest.mark.parametrize("box", [None, (3, 4, 20, 25)])
def test_the_header_check_gives_what_decoding_gives(data, box):
    for change in ({}, {"size": 20}, {"format": "png"}, {"min_laplacian": 1.0}):
        assert prepare(data, box, Form(check="header", **change)) == prepare(
            data, box, Form(**change)
        )


@pytest.mark.parametrize("name", ["sampling 2", "progressive", "gray"])
def test_no_cut_file_passes_the_header_check(name):
    data = PLAIN[name]
    for end in range(len(data) - 1):
        with pytest.raises(PictureError):
            prepare(data[:end], None, HEADER)


def test_a_flipped_bit_amid_the_data_may_pass_and_never_changes_the_bytes():
    data = PLAIN["sampling 2"]
    draw = np.random.default_rng(0)
    packed = 0
    for place in draw.integers(0, len(data), 200):
        harmed = data[:place] + bytes([data[place] ^ 1 << draw.integers(8)]) + data[place + 1 :]
        try:
            made = prepare(harmed, None, HEADER)
        except PictureError:
            continue
        packed += made.data == harmed
    assert packed > 100


@pytest.mark.skipif(not DOGS.is_dir(), reason=f"no photographs in {DOGS}")
def test_photographs_pass_the_header_check_as_they_pass_decoding():
    paths = [*(DOGS / "snapshots").glob("*.jpg"), *(DOGS / "pets").rglob("*.jpg")][:60]
    assert len(paths) > 20
    for path in paths:
        data = path.read_bytes()
        assert prepare(data, None, HEADER) == prepare(data, None, Form())
