"""shards/archives.py through the packer: tars and zips, read in place."""

import io
import os
import struct
import tarfile
import zipfile

import pytest

from shards.pack import main
from tests.pictures_on_disk import drawn, rejected, samples, shard_bytes, write_files


@pytest.fixture
def photos(tmp_path):
    names = ("chow/a.jpg", "chow/b.v2.jpg", "pug/c.jpg", "pug/young/d.jpg", "e.jpg")
    files = {name: drawn(number) for number, name in enumerate(names)}
    return write_files(tmp_path / "photos", files | {"notes.txt": "none"})


def tar_of(path, folder, **options):
    with tarfile.open(path, "w", **options) as file:
        for name in sorted(os.listdir(folder)):
            file.add(folder / name, name)
    return path


def zip_of(path, folder, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name in sorted(folder.rglob("*")):
            file.write(name, name.relative_to(folder))
    return path


def test_a_folder_its_tar_and_its_zip_give_the_same_bytes(photos, tmp_path, capsys):
    sources = [
        photos,
        tar_of(tmp_path / "pax.tar", photos),
        tar_of(tmp_path / "gnu.tar", photos, format=tarfile.GNU_FORMAT),
        zip_of(tmp_path / "deflated.zip", photos),
        zip_of(tmp_path / "stored.zip", photos, zipfile.ZIP_STORED),
    ]
    outs = [tmp_path / f"out-{number}" for number in range(len(sources))]
    for source, out in zip(sources, outs, strict=True):
        assert main([str(source), str(out), "--val", "0.4", "--size", "32"]) == 0
        assert "found     5 pictures (ignored: 1 other files)" in capsys.readouterr().out
    assert all(shard_bytes(out) == shard_bytes(outs[0]) for out in outs)
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in (*sources, *outs))


def test_links_devices_and_names_that_lead_out_stay_inside_the_tar(tmp_path, capsys):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(drawn(0))
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for number, name in enumerate(("../../up/a.jpg", "/abs/b.jpg", "./c.jpg", "c.jpg")):
            info = tarfile.TarInfo(name)
            data = drawn(number + 1)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("link.jpg")
            info.type, info.linkname = kind, str(secret)
            file.addfile(info)
    assert main([str(tmp_path / "x.tar"), str(tmp_path / "out")]) == 0
    assert "found     4 pictures (ignored: 4 special files)" in capsys.readouterr().out
    made = list(samples(tmp_path / "out"))
    names = sorted(about["source"] for _, _, about in made)
    assert names == ["abs/b.jpg", "c.jpg", "c.jpg", "up/a.jpg"]
    assert {data for _, data, _ in made} == {drawn(number) for number in range(1, 5)}
    assert {about["label"] for _, _, about in made} == {"up", "abs", None}


def test_bombs_encryption_and_damage_in_a_zip_are_named_losses(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("ok.jpg", drawn(0))
        file.writestr("lies.jpg", bytes(50 << 20))
        file.writestr("huge.jpg", b"x")
        file.writestr("locked.jpg", drawn(1))
        file.writestr("flipped.jpg", drawn(2))
        file.writestr("bzip2.jpg", drawn(3), zipfile.ZIP_BZIP2)
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
        at = {info.filename: info.header_offset for info in file.infolist()}
    data = bytearray(path.read_bytes())

    def change(name, offset, value):
        entry = data.rindex(name.encode()) - 46
        data[entry + offset : entry + offset + len(value)] = value

    change("lies.jpg", 24, struct.pack("<I", 1000))
    change("huge.jpg", 24, struct.pack("<I", 1 << 30))
    change("locked.jpg", 8, b"\1\0")
    data[at["flipped.jpg"] + 300] ^= 255
    path.write_bytes(data)
    assert main([str(path), str(tmp_path / "out")]) == 0
    reasons = rejected(tmp_path / "out")
    assert reasons == {
        "lies.jpg": "damaged: its zip says another size or checksum",
        "huge.jpg": f"too large: {1 << 30} bytes, more than {256 << 20}",
        "locked.jpg": "cannot be read: encrypted in its zip",
        "flipped.jpg": reasons["flipped.jpg"],
        "bzip2.jpg": "cannot be read: compressed by method 12 in its zip",
    }
    assert reasons["flipped.jpg"].startswith("damaged: ")
    assert [about["source"] for _, _, about in samples(tmp_path / "out")] == ["ok.jpg"]


def test_a_zip_with_64_bit_fields_a_comment_and_streamed_entries_is_read(tmp_path):
    path = tmp_path / "x.zip"
    with path.open("wb") as raw, zipfile.ZipFile(Unseekable(raw), "w") as file:
        with file.open("a.jpg", "w", force_zip64=True) as entry:
            entry.write(drawn(0))
        file.comment = b"PK\5\6 no end" * 9
    assert main([str(path), str(tmp_path / "out")]) == 0
    assert [data for _, data, _ in samples(tmp_path / "out")] == [drawn(0)]


class Unseekable(io.RawIOBase):
    def __init__(self, file):
        self._file = file

    def writable(self):
        return True

    def write(self, data):
        return self._file.write(data)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_cut_archive_is_one_message(photos, tmp_path, capsys, kind):
    whole = (tar_of if kind == "tar" else zip_of)(tmp_path / f"x.{kind}", photos).read_bytes()
    for number, end in enumerate(range(0, 3 * len(whole) // 5, len(whole) // 9)):
        path = tmp_path / f"{number}.{kind}"
        path.write_bytes(whole[:end])
        assert main([str(path), str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_a_compressed_tar_is_refused_with_the_command_that_helps(photos, tmp_path, capsys):
    with tarfile.open(tmp_path / "x.tar", "w:gz") as file:
        file.add(photos, "photos")
    assert main([str(tmp_path / "x.tar"), str(tmp_path / "out")]) == 2
    assert "gunzip it first" in capsys.readouterr().err
    (tmp_path / "x.tar").rename(tmp_path / "x.tar.gz")
    assert main([str(tmp_path / "x.tar.gz"), str(tmp_path / "out")]) == 2
    assert "compressed tars have to be uncompressed first" in capsys.readouterr().err
