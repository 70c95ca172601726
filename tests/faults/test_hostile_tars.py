"""Rows 27 and 28 of the catalogue of faults: members that would write elsewhere or fill the memory."""

import io
import lzma
import os
import tarfile
import zlib

import pytest
from PIL import Image

from shards import tar
from shards.index import main as index
from tests.faults.limited import MEMORY, run_limited
from tests.faults.shard_files import picture, read_all, skipped, write_tar
from tests.faults.strangers import special


def test_links_devices_and_outside_names_are_counted_and_nothing_is_written(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture(9))
    entries = [
        special("soft.jpg", tarfile.SYMTYPE, str(secret)),
        special("hard.jpg", tarfile.LNKTYPE, "../secret.jpg"),
        special("fifo.jpg", tarfile.FIFOTYPE),
        special("char.jpg", tarfile.CHRTYPE),
        special("block.jpg", tarfile.BLKTYPE),
        (f"{tmp_path}/absolute.jpg", picture(1)),
        ("../up.jpg", picture(2)),
        ("a/../../up.jpg", picture(3)),
        ("../up.json", b"{}"),
        ("a/..b.jpg", picture(4)),
        ("fine/..name/c.jpg", picture(5)),
    ]
    write_tar(folder / "train-0.tar", entries)
    assert index([str(folder)]) == 0
    assert list(read_all(folder).delivered.values()) == [picture(5)]
    assert skipped(folder) == sorted(
        [(f"{kind}.jpg", "not a plain file") for kind in ("soft", "hard", "fifo", "char", "block")]
        + [("a/..b.jpg", "no key")]
        + [
            (name, "a name that leads out of its folder")
            for name in (f"{tmp_path}/absolute.jpg", "../up.jpg", "a/../../up.jpg", "../up.json")
        ]
    )
    assert sorted(os.listdir(tmp_path)) == ["secret.jpg", "shards"]
    assert sorted(os.listdir(folder)) == [
        ".lock",
        "manifest.json",
        "skipped.jsonl",
        "train-0.index.npy",
        "train-0.tar",
    ]


def header(name=b"a.jpg", size=b"00000000001", kind=b"0", **fields):
    """A header with a right checksum, whatever it says; `fields` are bytes by `_offset`."""
    block = bytearray(tar.header("x", 1))
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    for offset, value in fields.items():
        block[int(offset[1:]) : int(offset[1:]) + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def gzip_of_zeros(size):
    made = zlib.compressobj(9, wbits=31)
    return b"".join(made.compress(bytes(1 << 20)) for _ in range(size >> 20)) + made.flush()


def many_globals():
    """A PAX header of 10^5 keys that each of 20,000 members would have to carry."""
    records = b"".join(b"%d k%05d=\n" % (len("11 k00000=\n"), n) for n in range(90_000))
    start = header(kind=b"g", size=b"%011o" % len(records)) + records
    return start + bytes(-len(records) % 512) + header(size=b"0") * 20_000 + tar.END


def flat_png():
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


GIANT = 1 << 40
MAP = header(kind=b"S", size=b"0", _482=b"\1")
BOMBS = {  # what a file starts with, the bytes of a hole behind that, and what it ends with
    "sparse of 2 GiB": (header(kind=b"S", _483=b"20000000000\0") + bytes(512), 0, tar.END),
    "sparse without an end": (MAP + (bytes(504) + b"\1" + bytes(7)) * 40_000, 0, b""),
    "gzip of 1 GiB": (gzip_of_zeros(1 << 30), 0, b""),
    "xz of 64 MiB": (lzma.compress(bytes(64 << 20), preset=0), 0, b""),
    "size of 2^95": (header(size=b"\x80\0" + b"\xff" * 10), 0, tar.END),
    "size of -512": (header(size=b"\xff" * 10 + b"\xfe\0"), 0, tar.END),
    "size of 1 TiB": (header(size=b"\x80" + GIANT.to_bytes(11, "big")), GIANT, tar.END),
    "PAX header of 1 GiB": (header(kind=b"x", size=b"10000000000"), 1 << 30, tar.END),
    "name of 1 MiB": (header(kind=b"L", size=b"%011o" % (1 << 20)) + b"a" * (1 << 20), 0, tar.END),
    "90,000 keys for 20,000 members": (many_globals(), 0, b""),
    "1 TiB of zeros behind its end": (header(size=b"0") + tar.END, GIANT, b""),
    "nothing but 1 TiB of zeros": (b"", GIANT, b""),
}


@pytest.mark.parametrize(("start", "hole", "end"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_at_its_header(tmp_path, start, hole, end):
    with (tmp_path / "train-0.tar").open("wb") as file:
        file.write(start)
        file.seek(hole, os.SEEK_CUR)
        file.write(end)
        file.truncate()
    ended = run_limited("shards.index", tmp_path, RLIMIT_AS=2 << 30)
    assert ended.code == 2, ended.err
    assert ended.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in ended.err
    assert ended.resident < MEMORY


def test_a_picture_of_400_megapixels_is_indexed_and_read_from_its_header_alone(tmp_path):
    write_tar(tmp_path / "train-0.tar", [("a.png", flat_png()), ("b.jpg", picture(0))])
    ended = run_limited("shards.index", tmp_path, RLIMIT_AS=2 << 30)
    assert (ended.code, ended.resident < MEMORY) == (0, True)
    read = read_all(tmp_path)
    assert read.delivered == {1: picture(0)}
    assert "400000000 pixels" in read.bad[0].reason
