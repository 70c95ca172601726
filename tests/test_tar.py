"""shards/tar.py: it reads what tarfile reads, and refuses what would cost samples or memory."""

import io
import os
import random
import subprocess
import tarfile

import pytest

from dvae.errors import UserError
from shards import tar


def read(path):
    with path.open("rb") as file:
        return list(tar.members(file, path.name))


def header(name=b"a", size=b"00000000001", kind=b"0"):
    """A ustar header with a right checksum, whatever its fields."""
    block = bytearray(tar.header("x", 1))
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_names(tmp_path, kind):
    draw = random.Random(0)
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as file:
        for number in range(60):
            length = draw.choice((1, 40, 99, 100, 101, 140, 200, 254))
            name = "d" * (length // 2) + "/" + f"{number:03d}" + "e" * (length // 2 - 30)
            if kind != tarfile.USTAR_FORMAT and number % 7 == 0:
                name += "\N{DOG FACE}\udcff" * 40
            info = tarfile.TarInfo(name)
            info.type = draw.choice([tarfile.REGTYPE] * 8 + [tarfile.DIRTYPE, tarfile.SYMTYPE])
            info.linkname = "l" * 150 if kind != tarfile.USTAR_FORMAT else "l"
            info.size = draw.choice((0, 1, 511, 512, 513, 2000)) if info.isreg() else 0
            info.mtime = 1.5 if kind == tarfile.PAX_FORMAT else 1
            file.addfile(info, io.BytesIO(bytes(info.size)))
    with tarfile.open(tmp_path / "a.tar", errors="surrogateescape") as file:
        expected = [(m.name, m.offset_data, m.size, m.isreg()) for m in file.getmembers()]
    found = [(name.rstrip("/"), *rest) for name, *rest in read(tmp_path / "a.tar")]
    assert found == expected


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_sparse_members_are_no_plain_data(tmp_path, kind):
    with (tmp_path / "holes.jpg").open("wb") as file:
        for place in range(0, 40 << 16, 1 << 16):
            file.seek(place)
            file.write(b"x")
    (tmp_path / "z.jpg").write_bytes(b"whole")
    command = ["tar", f"--format={kind}", "-Scf", "a.tar", "holes.jpg", "z.jpg"]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = read(tmp_path / "a.tar")
    assert [member.is_regular for member in found] == [False, True]
    data = (tmp_path / "a.tar").read_bytes()
    assert data[found[1].offset : found[1].offset + found[1].size] == b"whole"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(size=b"\xff" * 12), "impossible size at byte 0"),
        (header(size=b"\x80" + b"\xff" * 11), "is truncated"),
        (header(size=b"-1"), "impossible size"),
        (header(size=b"77777777777") + bytes(512), "is truncated"),
        (header(kind=b"x", size=b"07777777") + bytes(1 << 21), "extended header of 2097151 bytes"),
        (header(kind=b"L", size=b"07777777") + bytes(1 << 21), "extended header of 2097151 bytes"),
        (header(kind=b"x") + b"9" * 512 + tar.END, "damaged PAX header at byte 0"),
        (header(kind=b"x", size=b"6") + b"0 a=b\n".ljust(512, b"\0"), "damaged PAX header"),
        (
            header(kind=b"x", size=b"6") + b"6 a=b\n".ljust(512, b"\0") + tar.END,
            "before the member",
        ),
        (
            header(kind=b"x", size=b"14") + b"12 size=9e9\n".ljust(512, b"\0") + header(),
            "impossible size at byte 1024",
        ),
        (tar.END + header() + bytes(512), "data behind the end of the archive at byte 0"),
        (b"\x28\xb5\x2f\xfd" + bytes(508), "unzstd it first"),
        (b"<html>".ljust(512), "no valid tar header at byte 0: copy it again"),
    ],
)
def test_hostile_and_damaged_archives_are_refused(tmp_path, data, message):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.tar")


def test_random_bytes_never_raise_anything_but_a_user_error(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as file:
        for number in range(6):
            info = tarfile.TarInfo("n" * 120 + f"\xe9{number}.jpg")
            info.size = 700
            file.addfile(info, io.BytesIO(os.urandom(700)))
    whole = (tmp_path / "a.tar").read_bytes()
    draw = random.Random(1)
    for _ in range(600):
        bent = bytearray(whole)
        for _ in range(draw.choice((1, 1, 3, 20))):
            bent[draw.randrange(len(bent))] = draw.randrange(256)
        (tmp_path / "a.tar").write_bytes(
            bent[: draw.choice((len(bent), draw.randrange(len(bent))))]
        )
        try:
            found = read(tmp_path / "a.tar")
        except UserError:
            continue
        assert all(member.offset + member.size <= len(whole) for member in found)
