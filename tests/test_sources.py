"""shards/sources.py through the packer: any file name, any kind of file, any table of boxes."""

import ctypes
import json
import os
import socket
import stat
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dvae.errors import UserError
from shards.boxes import read_boxes
from shards.folder import Folder, read_file
from shards.pack import main
from shards.pictures import PictureError
from shards.sources import Plain, has_picture_name, list_items
from shards.splits import is_held_out
from shards.tar import members
from tests.pictures_on_disk import encoded, rejected, samples

NAMES = [
    b"plain.jpg",
    b"A.JPG",
    b"a.jpg",
    b"a.Jpeg",
    b"rex.v2.final.jpg",
    b".leading.jpg",
    b"with space .jpg",
    b"new\nline.jpg",
    b"tab\t.jpg",
    b"quote\"'.jpg",
    b"back\\slash.jpg",
    b"-rf.jpg",
    b"*?[x].jpg",
    b"$(touch probe).jpg",
    "caf\u00e9.jpg".encode(),
    "cafe\u0301.jpg".encode(),
    "\U0001f436.jpg".encode(),
    "\u202egpj.jpg".encode(),
    b"latin-\xe9.jpg",
    b"bytes-\xff\xfe.jpg",
    b"x" * 246 + b".jpg",
]


def picture(path, number=0):
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path, "JPEG")


def test_every_file_name_becomes_one_sample_with_a_safe_key(tmp_path):
    source = os.fsencode(tmp_path / "photos")
    os.mkdir(source)
    os.mkdir(source + b"/sub.dir \xff")
    for number, name in enumerate(NAMES):
        with open(os.path.join(source, name), "wb") as file:
            picture(file, number)
        with open(os.path.join(source, b"sub.dir \xff", name), "wb") as file:
            picture(file, number)
    out = tmp_path / "out"
    assert main([str(tmp_path / "photos"), str(out)]) == 0
    with (out / "train-000000.tar").open("rb") as file:
        found = list(members(file, "x"))
        keys = [member.name.split(".")[0] for member in found if member.name.endswith(".jpg")]
        notes = [m for m in found if m.name.endswith(".json")]
        texts = [os.pread(file.fileno(), m.size, m.offset) for m in notes]
    assert keys == [f"train-{number:09d}" for number in range(2 * len(NAMES))]
    assert all(text.isascii() for text in texts)
    shown = {json.loads(text)["source"] for text in texts}
    assert len(shown) == 2 * len(NAMES)
    assert {"bytes-\\xff\\xfe.jpg", "new\nline.jpg", "sub.dir \\xff/a.jpg"} <= shown


def test_links_fifos_sockets_and_hidden_folders_are_counted_and_never_opened(tmp_path):
    source = tmp_path / "photos"
    (source / ".git").mkdir(parents=True)
    (source / "sub").mkdir()
    for path in (source / "a.jpg", source / ".git" / "b.jpg", tmp_path / "outside.jpg"):
        picture(path)
    (source / "._a.jpg").write_bytes(b"AppleDouble")
    (source / "sub" / "loop").symlink_to(source)
    (source / "out.jpg").symlink_to(tmp_path / "outside.jpg")
    (source / "dangling.jpg").symlink_to("nowhere")
    (source / "folder.jpg").mkdir()
    os.mkfifo(source / "fifo.jpg")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(source / "socket.jpg"))
        command = [sys.executable, "-m", "shards.pack", str(source), str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert (
        "found     1 pictures (ignored: 1 hidden folders, 1 other files, 2 special files, "
        "3 symbolic links)" in done.stdout
    )


def test_a_device_is_counted_and_never_opened(tmp_path):
    picture(tmp_path / "a.jpg")
    try:
        os.mknod(tmp_path / "zero.jpg", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("making a device needs root")
    listing = list_items(Plain(Folder(tmp_path)))
    assert [item.name for item in listing.pictures] == [b"a.jpg"]
    assert listing.ignored == {"special files": 1}
    with pytest.raises(PictureError, match="not a regular file"):
        read_file(os.fsencode(tmp_path / "zero.jpg"))


def as_everyone():
    """Take away what lets root read what isn't its to read, from the next program on."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if os.geteuid() == 0 and libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
            raise OSError(ctypes.get_errno(), "prctl")


def test_what_may_not_be_read_is_a_named_loss(tmp_path):
    source, out = tmp_path / "photos", tmp_path / "out"
    for name in ("mine.jpg", "theirs.jpg", "closed/a.jpg"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        picture(source / name)
    (source / "theirs.jpg").chmod(0)
    (source / "closed").chmod(0)
    command = [sys.executable, "-m", "shards.pack", str(source), str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=20, preexec_fn=as_everyone
    )
    (source / "closed").chmod(0o700)  # for pytest, which removes it
    assert done.returncode == 0, done.stderr
    assert "found     2 pictures (ignored: 1 unreadable folders)" in done.stdout
    assert rejected(out) == {"theirs.jpg": "cannot be read: Permission denied"}


def test_what_changes_after_the_listing_is_a_named_loss(tmp_path, monkeypatch, capsys):
    source = tmp_path / "photos"
    source.mkdir()
    for name in ("stays.jpg", "grows.jpg", "goes.jpg", "becomes_fifo.jpg", "becomes_link.jpg"):
        picture(source / name)
    grown = encoded(Image.fromarray(np.arange(30_000, dtype=np.uint8).reshape(100, 100, 3)))

    def listing_then_change(folder):
        listing = list_items(folder)
        for path in source.iterdir():
            if path.name != "stays.jpg":
                path.unlink()
        (source / "grows.jpg").write_bytes(grown)
        os.mkfifo(source / "becomes_fifo.jpg")
        (source / "becomes_link.jpg").symlink_to(source / "stays.jpg")
        return listing

    monkeypatch.setattr("shards.pack.list_items", listing_then_change)
    assert main([str(source), str(tmp_path / "out")]) == 0
    packed = {about["source"]: data for _, data, about in samples(tmp_path / "out")}
    assert packed == {"stays.jpg": (source / "stays.jpg").read_bytes(), "grows.jpg": grown}
    assert rejected(tmp_path / "out") == {
        "goes.jpg": "cannot be read: No such file or directory",
        "becomes_fifo.jpg": "not a regular file: it was one when the folder was listed",
        "becomes_link.jpg": "cannot be read: Too many levels of symbolic links",
    }


def test_the_held_out_share_is_about_what_was_asked():
    contents = [number.to_bytes(32, "big") for number in range(4000)]
    count = sum(is_held_out(content, 0.1, seed=3) for content in contents)
    assert 330 < count < 470


HEAD = b"file,x0,y0,x1,y1\n"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "line 1: no column 'file'"),
        (b"file,x0,y0,x1\na,1,2,3\n", "line 1: no column 'y1'"),
        (HEAD + b"a.jpg,0,0,9,9\nb.jpg,0,0,x,9\n", "line 3: x1 is 'x', not a whole number"),
        (HEAD + b"a.jpg,0,0,9.5,9\n", "line 2: x1 is '9.5'"),
        (HEAD + b"a.jpg,0,0,9\n", "line 2: 4 fields, not 5"),
        (HEAD + b"a.jpg,0,0,9,9\n./a.jpg,0,0,9,9\n", "line 3: 'a.jpg' has a box already"),
        (HEAD + b'"a.jpg,0,0,9,9\n', "line 2: unexpected end of data"),
        (HEAD + b"a.jpg,0,0,9," + b"9" * 5000, "line 2: y1 is '9999"),
        (HEAD + b"a\0.jpg,0,0,9,9\n" + b"a" * 200_000 + b",0,0,9,9\n", "field larger"),
    ],
)
def test_a_broken_table_of_boxes_is_an_error_that_names_the_line(tmp_path, table, message):
    (tmp_path / "boxes.csv").write_bytes(table)
    with pytest.raises(UserError) as caught:
        read_boxes(tmp_path / "boxes.csv", tmp_path)
    assert message in str(caught.value)


def test_a_table_may_have_a_byte_order_mark_other_columns_and_odd_names(tmp_path):
    text = b"\xef\xbb\xbflabel,file,x0,y0,x1,y1\r\n\r\npug,b\xff.jpg,0,1,2,3\r\n"
    (tmp_path / "boxes.csv").write_bytes(text)
    boxes = read_boxes(tmp_path / "boxes.csv", tmp_path)
    assert boxes.find(b"b\xff.jpg") == (0, 1, 2, 3)
    assert boxes.find(b"a.jpg") is None


def test_a_base_name_that_is_nothing_but_an_extension_names_no_picture():
    pictures = (b"a.jpg", b"..a.JPG", b"x/.a.tiff", b".a/b.jpeg", b"a..png", b"\xff.bmp")
    others = (b".jpg", b"..jpg", b"x/.jpg", b"._a.jpg", b"x/._a.jpg", b"a.jpg/", b"jpg", b"a.jpg\n")
    assert all(map(has_picture_name, pictures))
    assert not any(map(has_picture_name, others))
