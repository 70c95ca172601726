"""python -m shards.pack --dedupe: copies are left out by name, and different dogs stay."""

import builtins
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from shards.drawn_dogs import draw_dog
from shards.likeness import alike_pairs, looks_of
from shards.pack import main
from tests.pictures_on_disk import encoded
from tests.test_pack import DOGS, make_source, manifest, needs_dogs, samples, tree

KINDS = ("quality", "half", "mirror", "crop", "bright", "all")


def varied(image, kind, draw):
    """A copy of a picture that a collector of pictures would meet."""
    if kind == "half":
        return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    if kind == "mirror":
        return ImageOps.mirror(image)
    if kind == "bright":
        return image.point(lambda level: min(255, int(level * 1.15)))
    if kind == "crop":
        width, height = round(image.width * 0.9), round(image.height * 0.9)
        left = int(draw.integers(0, image.width - width + 1))
        top = int(draw.integers(0, image.height - height + 1))
        return image.crop((left, top, left + width, top + height))
    if kind == "all":
        return ImageOps.mirror(varied(varied(image, "crop", draw), "half", draw))
    return image


def with_copies(paths, folder):
    """The pictures and a copy of each kind of each, under names that tell the group."""
    draw = np.random.default_rng(0)
    for number, path in enumerate(paths):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for kind in ("original", *KINDS):
            target = folder / kind / f"{number:04d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            quality = 40 if kind in ("quality", "all") else 90
            varied(image, kind, draw).save(target, quality=quality)
    return folder


def left_out(out):
    return [json.loads(line) for line in (out / "rejected.jsonl").read_bytes().splitlines()]


def check_groups(out, count):
    """One picture of each group is packed; each other one names one of its own group."""
    packed = [Path(about["source"]).name for _, _, about in samples(out)]
    assert sorted(packed) == [f"{number:04d}.jpg" for number in range(count)]
    for line in left_out(out):
        assert line["reason"].startswith("near duplicate: looks like ")
        assert Path(line["reason"]).name == Path(line["source"]).name
    counts = manifest(out)["about"]["counts"]
    copies = count * len(KINDS)
    assert counts == {
        "found": count + copies,
        "packed": count,
        "rejected": 0,
        "duplicates": copies,
    }


@pytest.mark.slow
@needs_dogs
def test_crops_mirrored_and_re_encoded_photographs_are_found_and_different_dogs_stay(tmp_path):
    paths = sorted((DOGS / "pets" / "images").glob("*.jpg"))[::2][:40]
    paths = paths or sorted((DOGS / "faces" / "train").rglob("*.jpg"))[::172]
    source = with_copies(paths, tmp_path / "photos")
    out = tmp_path / "out"
    assert main([str(source), str(out), "--dedupe", "near", "--val", "0.4"]) == 0
    check_groups(out, len(paths))


def test_copies_of_drawn_dogs_are_found_and_different_dogs_stay(tmp_path):
    (tmp_path / "drawn").mkdir()
    for number in range(12):
        draw_dog(5, number, 160)[0].save(tmp_path / "drawn" / f"{number:02d}.png")
    source = with_copies(sorted((tmp_path / "drawn").iterdir()), tmp_path / "photos")
    out = tmp_path / "out"
    assert main([str(source), str(out), "--dedupe", "near", "--val", "0.4"]) == 0
    check_groups(out, 12)


def test_copies_across_a_sources_own_splits_are_found(tmp_path):
    lines = ["file,split"]
    for number in range(6):
        image = draw_dog(5, number, 160)[0]
        image.save(tmp_path / f"{number}.png")
        copy = varied(image, "all", np.random.default_rng(number))
        copy.save(tmp_path / f"copy-{number}.jpg", quality=60)
        own, other = ("train", "val") if number % 2 else ("val", "train")
        lines += [f"{number}.png,{own}", f"copy-{number}.jpg,{other}"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    out = tmp_path / "out"
    assert main([str(tmp_path / "list.csv"), str(out), "--dedupe", "near"]) == 0
    packed = {about["source"]: split for split, _, about in samples(out)}
    assert packed == {f"{n}.png": ("val", "train")[n % 2] for n in range(6)}


def test_equal_bytes_are_left_out_and_say_of_which(tmp_path):
    source = make_source(tmp_path / "photos", 12)
    data = (source / "chow" / "0.jpg").read_bytes()
    (source / "copy.jpg").write_bytes(data)
    (source / "bad.jpg").write_bytes(b"text")
    out = tmp_path / "out"
    assert main([str(source), str(out), "--dedupe", "exact"]) == 0
    reasons = {line["source"]: line["reason"] for line in left_out(out)}
    names = {"copy.jpg", "chow/0.jpg"}
    (lost,) = names & set(reasons)
    (kept,) = names - {lost}
    assert reasons[lost] == f"duplicate: has the bytes of {kept}"
    counts = manifest(out)["about"]["counts"]
    assert counts == {"found": 14, "packed": 12, "rejected": 1, "duplicates": 1}
    assert main([str(source), str(tmp_path / "all")]) == 0
    assert manifest(tmp_path / "all")["about"]["counts"]["packed"] == 13


def test_a_run_that_was_killed_names_each_duplicate_once(tmp_path):
    source = make_source(tmp_path / "photos", 24)
    for path in sorted(source.rglob("*.*g")):
        shutil.copy(path, source / f"copy-{path.name}")
    flags = ("--dedupe", "exact", "--shard-bytes", "6K")
    assert main([str(source), str(tmp_path / "undisturbed"), *flags]) == 0
    out = tmp_path / "out"
    command = [sys.executable, "-m", "shards.pack", str(source), str(out), *flags]
    environment = os.environ | {"DVAE_FAILPOINT": "renamed:57"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(list(out.glob(".journal-*"))) > 15
    assert main([str(source), str(out), *flags]) == 0
    assert tree(out) == tree(tmp_path / "undisturbed")
    assert len(left_out(out)) == 24


def test_one_picture_with_two_boxes_is_two(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for name in "ab":
        draw_dog(0, 1, 64)[0].save(source / f"{name}.png")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,x0,y0,x1,y1\nphotos/a.png,0,0,30,30\nphotos/b.png,30,30,64,64\n")
    out = tmp_path / "out"
    arguments = [str(source), str(out), "--boxes", str(boxes), "--dedupe", "near"]
    assert main(arguments) == 0
    assert manifest(out)["about"]["counts"]["packed"] == 2


def damaged_jpeg(number):
    """A small JPEG whose header and end are right, and whose data isn't."""
    data = bytearray(encoded(draw_dog(1, number, 64)[0]))
    data[len(data) // 2 : -2] = b"\xff\xc4" * ((len(data) - 2 - len(data) // 2) // 2)
    return bytes(data)


def test_damage_that_check_header_believes_ends_no_run_and_stands_for_no_group(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for number in range(4):
        draw_dog(1, number, 64)[0].save(source / f"{number}.jpg")
        (source / f"damaged-{number}.jpg").write_bytes(damaged_jpeg(number))
    out = tmp_path / "out"
    arguments = [str(source), str(out), "--dedupe", "near", "--check", "header", "--append"]
    assert main(arguments) == 0
    assert manifest(out)["about"]["counts"]["packed"] == 8
    draw_dog(1, 9, 64)[0].save(source / "new.jpg")
    assert main(arguments) == 0  # looks at the damaged ones of the set too
    assert manifest(out)["about"]["counts"]["packed"] == 9


@pytest.mark.parametrize("dedupe", ["none", "exact"])
def test_a_further_box_of_an_old_picture_is_appended_and_an_old_box_is_not(dedupe, tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    draw_dog(0, 1, 64)[0].save(source / "a.png")
    out = tmp_path / "out"
    listed = tmp_path / "list.jsonl"
    arguments = [str(listed), str(out), "--boxes", "source", "--dedupe", dedupe, "--append"]
    boxes = [[0, 0, 30, 30], [30, 30, 64, 64], None]
    for count in (1, 2, 3):
        lines = [{"file": "photos/a.png"} | ({"box": box} if box else {}) for box in boxes[:count]]
        listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert main(arguments) == 0
        assert [about.get("box") for _, _, about in samples(out)] == boxes[:count]
        counts = manifest(out)["about"]["counts"]
        assert counts == {"found": count, "packed": count, "rejected": 0, "duplicates": 0}


def test_an_equal_file_with_an_equal_box_is_a_duplicate_of_the_old_one(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    draw_dog(0, 1, 64)[0].save(source / "a.png")
    (source / "b.png").write_bytes((source / "a.png").read_bytes())
    out = tmp_path / "out"
    listed = tmp_path / "list.jsonl"
    arguments = [str(listed), str(out), "--boxes", "source", "--dedupe", "exact", "--append"]
    lines = [json.dumps({"file": f"photos/{n}.png", "box": [0, 0, 30, 30]}) + "\n" for n in "ab"]
    listed.write_text(lines[0])
    assert main(arguments) == 0
    listed.write_text("".join(lines))
    assert main(arguments) == 0
    assert left_out(out) == [
        {"reason": "duplicate: has the bytes of photos/a.png", "source": "photos/b.png"}
    ]


def test_appended_copies_of_old_pictures_are_left_out(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for number in range(6):
        draw_dog(3, number, 128)[0].save(source / f"{number}.png")
    out = tmp_path / "out"
    arguments = [str(source), str(out), "--dedupe", "near", "--size", "96", "--append"]
    assert main(arguments) == 0
    old = tree(out)
    with Image.open(source / "2.png") as image:
        ImageOps.mirror(image.resize((512, 512))).save(source / "larger.png")
    draw_dog(3, 40, 128)[0].save(source / "new.png")
    assert main(arguments) == 0
    assert left_out(out) == [{"reason": "near duplicate: looks like 2.png", "source": "larger.png"}]
    names = [about["source"] for _, _, about in samples(out)]
    assert sorted(names) == sorted([f"{number}.png" for number in range(6)] + ["new.png"])
    assert tree(out)["train-000000.tar"] == old["train-000000.tar"]


def test_the_bytes_do_not_depend_on_workers(tmp_path):
    source = make_source(tmp_path / "photos", 24)
    for number in range(6):
        draw_dog(0, number % 3, 64)[0].save(source / f"dog-{number}.png")
    trees = []
    for workers in (1, 4):
        out = tmp_path / str(workers)
        arguments = [str(source), str(out), "--dedupe", "near", "--workers", str(workers)]
        assert main(arguments) == 0
        trees.append(tree(out))
    assert trees[0] == trees[1]


def test_the_largest_of_a_group_is_kept(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    image = draw_dog(0, 1, 256)[0]
    for side in (100, 256, 180):
        image.resize((side, side), Image.Resampling.LANCZOS).save(source / f"{side}.png")
    assert main([str(source), str(tmp_path / "out"), "--dedupe", "near"]) == 0
    assert [about["source"] for _, _, about in samples(tmp_path / "out")] == ["256.png"]


def test_flat_pictures_of_different_colours_stay(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for level in range(0, 250, 50):
        Image.new("RGB", (64, 64), (level, 0, 99)).save(source / f"{level}.png")
    assert main([str(source), str(tmp_path / "out"), "--dedupe", "near"]) == 0
    assert manifest(tmp_path / "out")["about"]["counts"]["packed"] == 5


def test_a_thousand_equal_hashes_are_not_a_million_candidates():
    buffer = io.BytesIO()
    draw_dog(0, 0, 128)[0].save(buffer, "PNG")
    with Image.open(buffer) as image:
        looks = looks_of(image.convert("RGB"))
    pairs = list(alike_pairs(*(np.stack([part] * 1000) for part in looks)))
    assert len(pairs) == 1000
    assert {b for _, b in pairs} == set(range(1000))


def test_without_the_library_the_error_names_the_extra(tmp_path, monkeypatch, capsys):
    source = make_source(tmp_path / "photos", 3)
    real = builtins.__import__

    def without(name, *arguments):
        if name == "imagehash":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main([str(source), str(tmp_path / "out"), "--dedupe", "near"]) == 2
    assert "pip install 'dvae[dedupe]'" in capsys.readouterr().err
