"""python -m shards.pack --dedupe: copies are left out by name, and different dogs stay."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image, ImageOps

from shards.drawn_dogs import draw_dog
from shards.pack import main
from shards.verify import main as verify
from tests.pictures_on_disk import encoded
from tests.test_pack import make_source, manifest, samples, tree


def left_out(out):
    return [json.loads(line) for line in (out / "rejected.jsonl").read_bytes().splitlines()]


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


EXACT = ("--dedupe", "exact", "--shard-bytes", "6K")


def killed_among_twins(tmp_path, point):
    """24 pictures and a copy of each, and what a packing of them left that was killed."""
    source, out = make_source(tmp_path / "photos", 24), tmp_path / "out"
    for path in sorted(source.rglob("*.*g")):
        shutil.copy(path, source / f"copy-{path.name}")
    command = [sys.executable, "-m", "shards.pack", str(source), str(out), *EXACT]
    environment = os.environ | {"DVAE_FAILPOINT": point}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    return source, out


def test_a_run_that_was_killed_names_each_duplicate_once(tmp_path):
    source, out = killed_among_twins(tmp_path, "renamed:57")
    assert len(list(out.glob(".journal-*"))) > 15
    assert main([str(source), str(tmp_path / "undisturbed"), *EXACT]) == 0
    assert main([str(source), str(out), *EXACT]) == 0
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


def test_a_killed_run_ends_though_its_pictures_changed_meanwhile(tmp_path):
    source, out = killed_among_twins(tmp_path, "renamed:60")
    entries = [json.loads(path.read_text()) for path in out.glob(".journal-*")]
    assert sum(len(entry["left_out"]) for entry in entries) > 0
    for path in sorted(source.glob("copy-*")):  # equal ones no more, of the same sizes
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert main([str(source), str(out), *EXACT]) == 0
    assert verify([str(out)]) == 0
