"""python -m shards.index: an index and a manifest for shards that something else wrote."""

import io
import json
import os
import random
import subprocess
import tarfile
import zlib

import numpy as np
import pytest
import webdataset
from PIL import Image

from dvae.data.index import read_index
from dvae.data.manifest import find_split, read_splits
from dvae.data.reader import Reader
from shards.index import main, split_of
from shards.pack import main as pack


def picture(number, kind="JPEG", orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    levels = np.random.default_rng(number).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    Image.fromarray(levels).save(file, kind, exif=exif)
    return file.getvalue()


def write_tar(path, entries, kind=tarfile.GNU_FORMAT):
    """A tar of (name, bytes) or of TarInfo without data."""
    with tarfile.open(path, "w", format=kind) as file:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                file.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size = len(entry[1])
            file.addfile(info, io.BytesIO(entry[1]))


def rows(folder, split="train"):
    """(picture's bytes, JSON's bytes, orientation) of each sample; checks each CRC-32."""
    found = []
    for shard in read_splits(folder)[split].shards:
        data = (folder / shard.name).read_bytes()
        for row in read_index(folder, shard):
            offset, size, crc32, orientation, note, note_size, note_crc32 = map(int, row)
            assert zlib.crc32(data[offset : offset + size]) == crc32
            assert zlib.crc32(data[note : note + note_size]) == note_crc32
            found.append((data[offset : offset + size], data[note : note + note_size], orientation))
    return found


def fails(capsys, message, folder):
    capsys.readouterr()
    assert main([str(folder)]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert message in told.err
    assert not (folder / "manifest.json").exists()


def test_stock_shardwriter_gives_rows_with_exactly_its_bytes(tmp_path):
    written = []
    pattern = str(tmp_path / "val-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=4, verbose=0) as writer:
        for number in range(10):
            data = picture(number, orientation=1 + number % 8)
            note = {"n": number, "text": "\N{DOG FACE}" * 9}
            writer.write({"__key__": "d/" * 60 + f"{number:04d}", "jpg": data, "json": note})
            written.append((data, note, 1 + number % 8))
    assert main([str(tmp_path)]) == 0
    read = [(data, json.loads(note), turn) for data, note, turn in rows(tmp_path, "val")]
    assert read == written


@pytest.mark.parametrize("kind", ["gnu", "pax", "ustar", "v7"])
def test_a_tar_by_the_tar_program_is_indexed(tmp_path, kind):
    name = "x" * (90 if kind in ("v7", "ustar") else 200)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}{name}.JPG").write_bytes(picture(number))
    out = tmp_path / "out"
    out.mkdir()
    command = ["tar", f"--format={kind}", "--sort=name", "-cf", str(out / "000.tar"), "."]
    subprocess.run(command, cwd=tmp_path / "photos", check=True)
    assert main([str(out)]) == 0
    assert rows(out) == [(picture(number), b"", 1) for number in range(3)]


def test_the_packers_own_index_comes_out_byte_for_byte(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for number in range(20):
        kind = ("JPEG", "PNG", "WEBP")[number % 3]
        data = picture(number, kind, orientation=1 + number % 3)
        (source / f"{number}.{kind.lower()}").write_bytes(data)
    out = tmp_path / "out"
    assert pack([str(source), str(out), "--val", "0.4", "--shard-bytes", "4K"]) == 0
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.name != ".lock"}
    for path in out.glob("*.index.npy"):
        path.unlink()
    assert main([str(out)]) == 0
    after = {p.name: p.read_bytes() for p in out.iterdir() if p.name != ".lock"}
    assert after.pop("skipped.jsonl") == b""
    assert after == before


def test_what_is_not_a_sample_is_counted_and_named(tmp_path, capsys):
    link, folder = tarfile.TarInfo("l.jpg"), tarfile.TarInfo("folder")
    link.type, link.linkname, folder.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.DIRTYPE
    fifo = tarfile.TarInfo("f.jpg")
    fifo.type = tarfile.FIFOTYPE
    entries = [
        ("a.json", b"{}"),
        ("a.PNG", picture(1, "PNG")),
        ("a.jpg", picture(2)),
        ("a.seg.png", picture(3, "PNG")),
        ("b.txt", b"no picture"),
        ("c.jpg", b""),
        ("nodot", b"x"),
        folder,
        link,
        fifo,
        ("../../up.jpg", picture(4)),
        ("/etc/up.jpg", picture(4)),
        ("f.jpg", picture(4)),
        ("f.json", b"{"),
        ("e.pkl", b"cos\nsystem\n(S'touch probe'\ntR."),
        ("e.jpg", b"not a JPEG"),
    ]
    write_tar(tmp_path / "train-0.tar", entries)
    write_tar(tmp_path / "train-1.tar", [("a.txt", b"")])
    assert main([str(tmp_path)]) == 0
    assert rows(tmp_path) == [
        (picture(1, "PNG"), b"{}", 1),
        (picture(4), b"", 1),
        (b"not a JPEG", b"", 1),
    ]
    lines = (tmp_path / "skipped.jsonl").read_bytes().splitlines()
    lost = [json.loads(line) for line in lines]
    assert sorted((entry["member"], entry["reason"]) for entry in lost) == [
        ("../../up.jpg", "a name that leads out of its folder"),
        ("/etc/up.jpg", "a name that leads out of its folder"),
        ("a.jpg", "a further picture of its sample"),
        ("a.txt", "sample without a picture"),
        ("b.txt", "sample without a picture"),
        ("c.jpg", "empty or huge picture"),
        ("f.jpg", "not a plain file"),
        ("f.json", "damaged JSON"),
        ("l.jpg", "not a plain file"),
        ("nodot", "no key"),
    ]
    assert "without a sample, left out: train-1.tar (1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-000000.tar", "train"),
        ("00000.tar", "train"),
        ("shard_003.tar", "shard"),
        ("imagenet-val-12.tar", "imagenet-val"),
        ("cc3m-train-0001-of-0576.tar", "cc3m-train"),
        ("dogs.tar", "dogs"),
        ("v2.1-07.tar", "v2.1"),
    ],
)
def test_the_split_is_the_name_before_its_number(name, split):
    assert split_of(name) == split


def test_shards_follow_their_numbers_not_their_letters(tmp_path):
    for number in (10, 9, 100):
        write_tar(tmp_path / f"{number}.tar", [("a.jpg", picture(number))])
    assert main([str(tmp_path)]) == 0
    assert [data for data, _, _ in rows(tmp_path)] == [picture(n) for n in (9, 10, 100)]


def test_folders_without_a_usable_tar_are_named(tmp_path, capsys):
    fails(capsys, "is not a folder", tmp_path / "nowhere")
    fails(capsys, "holds no .tar: give another folder", tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
    fails(capsys, "uncompress a.tar.gz", tmp_path)
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(1022))
    fails(capsys, "a.tar has no valid tar header at byte 0: gunzip it first", tmp_path)
    (tmp_path / "a.tar").write_bytes(b"")
    fails(capsys, "a.tar is empty (0 bytes)", tmp_path)
    write_tar(tmp_path / "a.tar", [("a.txt", b"x")])
    fails(capsys, "holds no sample with a member KEY.jpg", tmp_path)
    (tmp_path / ".packing").write_bytes(b"{}")
    fails(capsys, "half packed", tmp_path)


def test_every_truncation_and_header_flip_is_found(tmp_path, capsys):
    write_tar(
        tmp_path / "a.tar", [(f"{n}.{e}", picture(n)) for n in range(4) for e in ("jpg", "x")]
    )
    whole = (tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as file:
        headers = [member.offset for member in file.getmembers()]
        ends = {member.offset for member in file.getmembers()[1:]}
        last = file.getmembers()[-1]
    end = last.offset_data + last.size + -last.size % 512
    draw = random.Random(0)
    cuts = {0, 1, 511, 513, end - 1, end, *ends, *(draw.randrange(end) for _ in range(50))}
    for size in cuts:
        (tmp_path / "a.tar").write_bytes(whole[:size])
        fails(capsys, "a.tar", tmp_path)
    for _ in range(120):
        field = draw.choice([n for n in range(512) if n not in (148, 154)])  # 0 or space: the same
        place = draw.choice(headers) + field
        bent = bytearray(whole)
        bent[place] ^= 1 << draw.randrange(8)
        (tmp_path / "a.tar").write_bytes(bent)
        fails(capsys, f"at byte {place - place % 512}", tmp_path)
    for size in (end + 512, end + 1024, end + 10240):
        whole = whole.ljust(size, b"\0")
        (tmp_path / "a.tar").write_bytes(whole[:size])
        assert main([str(tmp_path)]) == 0
        assert len(rows(tmp_path, "a")) == 4
        os.unlink(tmp_path / "manifest.json")


def test_classes_come_from_json_cls_or_txt(tmp_path):
    image = picture(0)
    write_tar(
        tmp_path / "train-0.tar",
        [
            ("a.jpg", image),
            ("a.json", b'{"label": "chow"}'),
            ("a.cls", b"1"),
            ("b.jpg", image),
            ("b.cls", b"7\n"),
            ("b.json", b'{"width": 3}'),
            ("c.jpg", image),
            ("c.txt", b"pug"),
            ("d.jpg", image),
            ("d.txt", b"a dog " * 100),
            ("e.jpg", image),
            ("e.cls", b"\xff\xfe"),
        ],
    )
    assert main([str(tmp_path)]) == 0
    reader = Reader(find_split(tmp_path, "train"))
    labels = [reader.about(number).get("label") for number in range(5)]
    assert labels == ["chow", "7", "pug", None, None]
    lost = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [(line["member"], line["reason"]) for line in lost] == [("e.cls", "damaged CLS")]


def test_which_members_are_pictures_can_be_said(tmp_path, capsys):
    members = [("a.photo", picture(0)), ("a.jpg", b"a thumbnail")]
    write_tar(tmp_path / "train-0.tar", members)
    assert main([str(tmp_path), "--images", "photo"]) == 0
    assert len(Reader(find_split(tmp_path, "train"))) == 1
    assert main([str(tmp_path), "--images", "json"]) == 2
    assert "extensions of pictures" in capsys.readouterr().err
