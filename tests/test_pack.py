"""python -m shards.pack: a folder of pictures in, shards, index and manifest out."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from dvae.data.index import read_index
from dvae.data.manifest import read_splits
from shards import tar
from shards.pack import main

DOGS = Path(__file__).parents[2] / "shared" / "dogs"
needs_dogs = pytest.mark.skipif(not DOGS.is_dir(), reason=f"the test photographs {DOGS} are absent")


def picture(number, side=24):
    levels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((side + number % 5, side), Image.Resampling.BICUBIC)


def make_source(folder, count=24, side=24, texts=0):
    for number in range(count):
        path = folder / ("chow", "pug", ".")[number % 3] / f"{number}.{('jpg', 'png')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, side).save(path)
    for number in range(texts):
        (folder / f"text-{number}.jpg").write_bytes(b"text")
    return folder


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "photos")


def packed(source, out, *flags):
    assert main([str(source), str(out), *map(str, flags)]) == 0
    return out


def run(source, out, *flags, **options):
    command = [sys.executable, "-m", "shards.pack", str(source), str(out), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def tree(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".lock"}


def samples(folder):
    """(split, key, picture's bytes, JSON) of each sample, read through the index."""
    for name, split in read_splits(folder).items():
        for shard in split.shards:
            data = (folder / shard.name).read_bytes()
            for row in read_index(folder, shard):
                start, note = int(row["offset"]), int(row["json_offset"])
                about = json.loads(data[note : note + int(row["json_size"])])
                yield name, data[start : start + int(row["size"])], about


def manifest(folder):
    return json.loads((folder / "manifest.json").read_bytes())


def test_every_picture_is_packed_once_untouched_with_its_label(source, tmp_path):
    out = packed(source, tmp_path / "out", "--shard-bytes", "8K")
    seen = {about["source"]: data for _, data, about in samples(out)}
    files = {str(p.relative_to(source)): p.read_bytes() for p in source.rglob("*.*g")}
    assert seen == files
    for _, data, about in samples(out):
        folder = os.path.dirname(about["source"])
        image = Image.open(io.BytesIO(data))
        assert about["label"] == (folder or None)
        assert (about["width"], about["height"], about["bytes"]) == (*image.size, len(data))
        assert "source_sha256" not in about
    about = manifest(out)["about"]
    assert about["classes"] == ["chow", "pug"]
    assert about["counts"] == {"found": 24, "packed": 24, "rejected": 0, "duplicates": 0}
    assert (out / "rejected.jsonl").read_bytes() == b""
    assert len(read_splits(out)["train"].shards) > 2


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset's
def test_tarfile_and_stock_webdataset_read_the_same_samples(source, tmp_path):
    out = packed(source, tmp_path / "out", "--size", "16", "--shard-bytes", "8K")
    mine = [(about["source"], data) for _, data, about in samples(out)]
    paths = sorted(out.glob("*.tar"))
    for path in paths:
        with tarfile.open(path) as file:
            for member in file.getmembers():
                info = tarfile.TarInfo(member.name)
                info.size = member.size
                assert info.tobuf(tarfile.USTAR_FORMAT) == tar.header(member.name, member.size)
    stock = webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)
    read = list(stock.decode("pil"))
    assert [sample["__key__"] for sample in read] == [f"train-{n:09d}" for n in range(24)]
    assert [sample["json"]["source"] for sample in read] == [name for name, _ in mine]
    for sample, (_, data) in zip(read, mine, strict=True):
        image = sample.get("jpg") or sample["png"]
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data))))


def test_the_bytes_do_not_depend_on_listing_order_locale_time_zone_or_workers(source, tmp_path):
    twin = tmp_path / "twin"
    for path in sorted(source.rglob("*.*g"), reverse=True):
        copy = twin / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        os.utime(copy, (1, 1))
    flags = ("--size", 20, "--val", 0.3, "--shard-bytes", "6K")
    first = packed(source, tmp_path / "a", *flags, "--workers", 1)
    environment = os.environ | {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    done = run(twin, tmp_path / "b", *flags, "--workers", 4, env=environment)
    assert done.returncode == 0, done.stderr
    assert tree(first) == tree(tmp_path / "b")


def test_another_seed_gives_another_order_of_the_same_pictures(source, tmp_path):
    orders = [
        [about["source"] for _, _, about in samples(packed(source, tmp_path / str(s), "--seed", s))]
        for s in (0, 1)
    ]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_equal_pictures_are_never_in_both_splits(source, tmp_path):
    for path in list(source.rglob("*.*g")):
        copy = source / "copies" / path.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    out = packed(source, tmp_path / "out", "--val", "0.4")
    splits: dict[str, set[str]] = {}
    for split, _, about in samples(out):
        splits.setdefault(about["sha256"], set()).add(split)
    assert all(len(names) == 1 for names in splits.values())
    assert {name for names in splits.values() for name in names} == {"train", "val"}


def test_every_loss_is_named_and_found_is_packed_plus_rejected(source, tmp_path, capsys):
    whole = (source / "0.jpg").read_bytes() if (source / "0.jpg").exists() else None
    whole = whole or next(source.rglob("*.jpg")).read_bytes()
    bad = {"cut.jpg": whole[:300], "text.jpg": b"text", "empty.png": b"", "ok.jpeg": whole}
    for name, data in bad.items():
        (source / name).write_bytes(data)
    (source / "notes.txt").write_text("no picture")
    out = packed(source, tmp_path / "out")
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_bytes().splitlines()]
    assert {line["source"] for line in lines} == {"cut.jpg", "text.jpg", "empty.png"}
    counts = {"found": 28, "packed": 25, "rejected": 3, "duplicates": 0}
    assert manifest(out)["about"]["counts"] == counts
    assert manifest(out)["about"]["ignored"] == {"other files": 1}
    told = capsys.readouterr().out
    assert "found     28 pictures (ignored: 1 other files)" in told
    assert "rejected  3 (2 not a picture, 1 damaged): see" in told


def test_boxes_crop_whether_named_from_the_source_or_from_the_table(source, tmp_path):
    (source / "boxes.csv").write_text("file,x0,y0,x1,y1\nchow/0.jpg,1,2,11,12\n")
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\nphotos/chow/0.jpg,1,2,11,12\n")
    trees = []
    for number, table in enumerate((source / "boxes.csv", tmp_path / "boxes.csv")):
        out = packed(source, tmp_path / str(number), "--boxes", table)
        cropped = [about for _, _, about in samples(out) if "source_sha256" in about]
        assert [(a["source"], a["width"], a["height"]) for a in cropped] == [("chow/0.jpg", 10, 10)]
        trees.append(tree(out))
    assert trees[0]["train-000000.tar"] == trees[1]["train-000000.tar"]


def test_a_box_that_is_not_inside_rejects_its_picture_only(source, tmp_path):
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\nchow/0.jpg,0,0,999,9\n")
    out = packed(source, tmp_path / "out", "--boxes", tmp_path / "boxes.csv")
    (line,) = (out / "rejected.jsonl").read_text().splitlines()
    assert "box outside the picture or empty: 0,0,999,9 in 24x24" in line


def test_the_same_command_again_does_nothing(source, tmp_path, capsys):
    out = packed(source, tmp_path / "out", "--size", 16)
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.name != ".lock"}
    packed(source, out, "--size", 16, "--workers", 3)
    assert "already packed" in capsys.readouterr().out
    assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.name != ".lock"}


def test_overwrite_leaves_what_a_fresh_folder_would_hold(source, tmp_path):
    out = packed(source, tmp_path / "out", "--val", 0.5, "--shard-bytes", "4K")
    packed(source, out, "--overwrite")
    assert tree(out) == tree(packed(source, tmp_path / "fresh"))


def test_a_killed_run_has_no_manifest_and_the_next_gives_the_undisturbed_bytes(tmp_path):
    source = make_source(tmp_path / "photos", 120, 200)
    flags = ("--size", "64", "--shard-bytes", "32K", "--workers", "1")
    command = [sys.executable, "-m", "shards.pack", str(source), str(tmp_path / "out"), *flags]
    for shards in (1, 3):
        with subprocess.Popen(command) as process:
            seen = tmp_path / "out" / f"train-{shards:06d}.tar"
            while not seen.exists() and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "out" / "manifest.json").exists()
    packed(source, tmp_path / "out", *flags)
    assert tree(tmp_path / "out") == tree(packed(source, tmp_path / "whole", *flags))


@needs_dogs
def test_hostile_files_are_packed_or_named_within_limits(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    source = DOGS / "hostile"
    done = run(source, tmp_path / "out", "--workers", "2", "--size", "64", preexec_fn=limit)
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "out"
    rejected = (out / "rejected.jsonl").read_bytes().splitlines()
    lost = [json.loads(line)["source"] for line in rejected]
    kept = [about["source"] for _, _, about in samples(out)]
    kinds = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
    files = [p for p in source.rglob("*") if p.suffix.lower() in kinds]
    assert Counter(lost + kept) == Counter(str(p.relative_to(source)) for p in files)
    assert {"synthetic/truncated_50pct.jpg", "synthetic/huge_20000x20000.png"} <= set(lost)


@needs_dogs
def test_real_photographs_are_cropped_to_their_boxes(tmp_path):
    table = DOGS / "faces" / "boxes.csv"
    out = packed(DOGS / "faces" / "val", tmp_path / "out", "--boxes", table, "--size", "64")
    for _, data, about in samples(out):
        assert Image.open(io.BytesIO(data)).size == (about["width"], about["height"])
        assert min(about["width"], about["height"]) == 64
    assert manifest(out)["about"]["counts"]["rejected"] == 0


def test_boxes_that_name_no_picture_are_refused(pictures, tmp_path, capsys):
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,x0,y0,x1,y1\nnosuch.jpg,0,0,10,10\n")
    assert main([str(pictures), str(tmp_path / "out"), "--boxes", str(boxes)]) == 2
    assert "names no picture of SOURCE" in capsys.readouterr().err
