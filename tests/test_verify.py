"""python -m shards.verify: whatever differs from the manifest is found and named."""

import hashlib
import io
import json
import shutil
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from dvae.data.index import SAMPLE, read_index, write_index
from dvae.data.manifest import Shard, read_splits, write_shard_manifest
from dvae.data.shard_list import index_name
from shards.pack import main as pack
from shards.tar import members
from shards.verify import main
from tests.fault_server import serving
from tests.test_pack import make_source

NAME = "train-000001.tar"


@pytest.fixture
def folder(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "shards")


def told(capsys, folder, code, *flags):
    """The lines on stdout of a run that ends with `code`."""
    capsys.readouterr()
    assert main([str(folder), *flags]) == code
    return capsys.readouterr().out.splitlines()


def test_intact_shards_are_all_right(folder, capsys):
    (line,) = told(capsys, folder, 0)
    assert line.startswith("all right: 64 samples in ")


def test_every_flipped_bit_of_a_tar_and_every_cut_is_found(folder, capsys):
    path = folder / NAME
    data = path.read_bytes()
    draw = np.random.default_rng(0)
    for place in (0, 600, *draw.integers(0, len(data), 8)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert told(capsys, folder, 3)[0].startswith(f"{NAME}: does not have the SHA-256")
        path.write_bytes(data[:place])
        assert told(capsys, folder, 3)[0] == (
            f"{NAME}: has {place} of {len(data)} bytes: "
            "copy it again, or pack again with --overwrite"
        )
    path.write_bytes(data)
    told(capsys, folder, 0)


def test_damaged_samples_are_counted_and_the_first_is_named(folder, capsys):
    (shard,) = [s for s in read_splits(folder)["train"].shards if s.name == NAME]
    rows = read_index(folder, shard)
    data = bytearray((folder / NAME).read_bytes())
    for number in (2, 3):
        data[int(rows["offset"][number]) + 5] ^= 1
    (folder / NAME).write_bytes(data)
    lines = told(capsys, folder, 3)
    place = rows["offset"][2]
    assert f"2 of {len(rows)} samples: sample 2 at byte {place} does not have its CRC" in lines[1]


def test_an_index_is_made_anew_only_from_a_tar_that_is_right(folder, capsys):
    path = folder / "train-000001.index.npy"
    good = path.read_bytes()
    path.write_bytes(good[:-3])
    assert told(capsys, folder, 3)[0].startswith("train-000001.index.npy: is not the index")
    assert told(capsys, folder, 0, "--repair-index")
    assert path.read_bytes() == good
    path.unlink()
    assert told(capsys, folder, 3)[0].startswith("train-000001.index.npy: cannot be read (No such")
    told(capsys, folder, 0, "--repair-index")
    assert path.read_bytes() == good
    path.unlink()
    tar = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(tar[:-1] + b"x")
    assert len(told(capsys, folder, 3, "--repair-index")) == 2
    assert not path.exists()


def test_missing_and_stray_files_are_named(folder, capsys):
    (folder / "train-000000.tar").rename(folder / "other.tar")
    (folder / "rejected.jsonl").write_text('{"reason": "none", "source": "x"}\n')
    assert [line.rsplit(": ", 1)[0] for line in told(capsys, folder, 3)] == [
        "other.tar: is not named by manifest.json",
        "rejected.jsonl: has 1 lines, and manifest.json counts 0 pictures left out",
        "train-000000.tar: is missing",
    ]


def test_counts_and_a_list_of_rejections_that_were_changed_are_named(tmp_path, capsys):
    out = tmp_path / "out"
    source = make_source(tmp_path / "photos", count=6, texts=2)
    assert pack([str(source), str(out)]) == 0
    path, rejected = out / "manifest.json", out / "rejected.jsonl"
    whole, lines = json.loads(path.read_bytes()), rejected.read_text()
    rejected.write_text(lines.replace("text-1.jpg", "text-7.jpg"))
    assert told(capsys, out, 3)[0].startswith(
        "rejected.jsonl: does not have the SHA-256 that manifest.json names: "
    )
    del whole["about"]["rejected_sha256"]  # as before it was written
    path.write_text(json.dumps(whole))
    told(capsys, out, 0)
    counts = whole["about"]["counts"]
    for found, what in (
        (9, "counts 9 pictures found, and 6 packed, 2 rejected and 0 dup"),
        ("8", ""),
    ):
        counts["found"] = found
        path.write_text(json.dumps(whole))
        (line,) = told(capsys, out, 3)
        assert line.startswith(f"manifest.json: {what or 'has counts that are no whole numbers'}")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": "other/9"}'])
def test_a_damaged_manifest_falls_short(folder, capsys, text):
    (folder / "manifest.json").write_text(text)
    assert main([str(folder)]) == 3
    assert "manifest.json" in capsys.readouterr().err


def test_no_folder_and_a_half_packed_one_are_named(folder, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    (folder / "manifest.json").unlink()
    (folder / ".packing").write_text("{}")
    assert main([str(folder)]) == 3
    assert "half packed" in capsys.readouterr().err


def foreign(path, *names, note=b'{"caption": "a dog"}'):
    """A tar that something else wrote: a picture and a JSON for each name."""
    with tarfile.open(path, "w") as file:
        for number, name in enumerate(names):
            picture = io.BytesIO()
            Image.fromarray(np.full((9, 9, 3), number, np.uint8)).save(picture, "PNG")
            for extension, data in (("png", picture.getvalue()), ("json", note)):
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))


def _place(data, member):
    end = member.offset + member.size
    return member.offset, member.size, zlib.crc32(data[member.offset : end])


def indexed_blindly(folder):
    """What shards.index would write if it left out nothing."""
    splits = {}
    for path in sorted(folder.glob("*.tar")):
        data = path.read_bytes()
        with path.open("rb") as file:
            found = list(members(file, path.name))
        rows = np.array(
            [
                (*_place(data, a), 1, b.offset, b.size, _place(data, b)[2])
                for a, b in zip(found[::2], found[1::2], strict=True)
            ],
            SAMPLE,
        )
        digest = write_index(folder / index_name(path.name), rows)
        shard = Shard(path.name, len(data), hashlib.sha256(data).hexdigest(), len(rows), digest)
        splits.setdefault("val" if "val" in path.name else "train", []).append(shard)
    write_shard_manifest(folder, splits, {})


def test_keys_that_stand_twice_are_found_within_and_across_shards(tmp_path, capsys):
    foreign(tmp_path / "00000.tar", "a", "b", "c", "a")
    foreign(tmp_path / "00001.tar", "d", "b")
    foreign(tmp_path / "val-00000.tar", "b")
    indexed_blindly(tmp_path)
    assert [line.rsplit(": ", 1)[0] for line in told(capsys, tmp_path, 3)] == [
        "00000.tar: holds 1 keys a second time, 'a' of 00000.tar first",
        "00001.tar: holds 1 keys a second time, 'b' of 00000.tar first",
    ]


@pytest.mark.parametrize(
    ("note", "message"),
    [
        (b"[" * 100_000, "has a JSON that is none"),
        (b"\xff", "has a JSON that is none"),
        (b'{"bytes": 1, "sha256": "00"}', "does not have the SHA-256 that its JSON names"),
    ],
)
def test_a_json_that_is_none_or_of_another_picture_is_found(tmp_path, capsys, note, message):
    foreign(tmp_path / "00000.tar", "a", note=note)
    indexed_blindly(tmp_path)
    (line,) = told(capsys, tmp_path, 3)
    assert f"1 of 1 samples: sample 0 at byte 512 {message}" in line


def test_an_index_that_agrees_with_the_manifest_and_not_with_the_tar_is_found(folder, capsys):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    entry = manifest["splits"]["train"][1]
    path = folder / "train-000001.index.npy"
    rows = np.load(path)
    rows["offset"] += 1
    np.save(path, rows)
    entry["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "samples: sample 0" in told(capsys, folder, 3)[0]


def test_shards_behind_http_are_verified_and_damage_is_named(folder, capsys):
    with serving(folder, "reset in the body") as server:
        url = f"{server.url}/data?sig=s1gnature"
        (line,) = told(capsys, url, 0)
        assert line.startswith("all right: 64 samples in ")
        data = (folder / NAME).read_bytes()
        (folder / NAME).write_bytes(data[:700] + bytes([data[700] ^ 1]) + data[701:])
        (folder / "train-000000.index.npy").unlink()
        lines = told(capsys, url, 3)
        assert any(line.startswith("train-000000.tar: ") and "404" in line for line in lines)
        assert any(line.startswith(f"{NAME}: does not have the SHA-256") for line in lines)
        assert main([url, "--repair-index"]) == 2
        said = capsys.readouterr()
    assert "s1gnature" not in "".join((*lines, *said))
