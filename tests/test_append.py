"""python -m shards.pack --append: new pictures become further shards, and old ones stay as they are."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from dvae.data.index import read_index
from dvae.data.manifest import read_splits
from dvae.data.storage import LocalStore
from shards.finished import Finished, pictures_in
from shards.pack import main
from shards.verify import main as verify
from tests.test_pack import make_source, manifest, picture, samples, tree

FLAGS = ("--size", "20", "--val", "0.3", "--shard-bytes", "6K")


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "photos")


def append(source, out, *flags):
    assert main([str(source), str(out), *FLAGS, "--append", *flags]) == 0


def add(source, count=12):
    for number in range(100, 100 + count):
        path = source / "new" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture(number).save(path)


def stamps_of(out):
    """What changes when a shard or an index is written anew."""
    paths = [*out.glob("*.tar"), *out.glob("*.npy")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_new_pictures_become_further_shards_and_old_files_stay(source, tmp_path):
    out = tmp_path / "out"
    (source / "bad.jpg").write_bytes(b"text")
    append(source, out)  # nothing to append to yet: as without the flag
    old, stamps = tree(out), stamps_of(out)
    before = {name: list(split.shards) for name, split in read_splits(out).items()}
    add(source)
    (source / "worse.jpg").write_bytes(b"text")
    append(source, out)
    new = tree(out)
    assert (
        old.items()
        - {("manifest.json", old["manifest.json"])}
        - {("rejected.jsonl", old["rejected.jsonl"])}
        <= new.items()
    )
    assert stamps.items() <= stamps_of(out).items()  # not written again, with equal bytes either
    for name, split in read_splits(out).items():
        assert list(split.shards[: len(before[name])]) == before[name]
    names = [about["source"] for _, _, about in samples(out)]
    files = {str(path.relative_to(source)) for path in source.rglob("*.*g")}
    assert sorted(names) == sorted(files - {"bad.jpg", "worse.jpg"})
    about = manifest(out)["about"]
    assert about["counts"] == {"found": 38, "packed": 36, "rejected": 2, "duplicates": 0}
    assert about["classes"] == ["chow", "new", "pug"]
    assert verify([str(out)]) == 0


def test_appending_nothing_and_packing_again_change_nothing(source, tmp_path, capsys):
    out = tmp_path / "out"
    append(source, out)
    add(source)
    append(source, out)
    before = tree(out)
    append(source, out)
    assert main([str(source), str(out), *FLAGS]) == 0
    assert capsys.readouterr().out.count("already packed") == 2
    assert tree(out) == before


def test_a_folder_of_new_pictures_only_may_be_appended_under_names_that_exist(source, tmp_path):
    out = tmp_path / "out"
    append(source, out)
    more = tmp_path / "more"
    (more / "chow").mkdir(parents=True)
    picture(500).save(more / "chow" / "0.jpg")
    append(more, out)
    sources = [about["source"] for _, _, about in samples(out)]
    assert len(sources) == 25
    assert sources.count("chow/0.jpg") == 2


def test_other_options_are_not_appended(source, tmp_path, capsys):
    out = tmp_path / "out"
    append(source, out)
    add(source)
    assert main([str(source), str(out), *FLAGS]) == 2
    assert "give another folder, --append, or --overwrite" in capsys.readouterr().err
    assert main([str(source), str(out), *FLAGS[:-1], "8K", "--append"]) == 2
    assert "made otherwise" in capsys.readouterr().err
    assert main([str(source), str(out), "--append", "--overwrite"]) == 2


def reasons_of(out):
    lines = (out / "rejected.jsonl").read_text().splitlines()
    return [(json.loads(line)["source"], json.loads(line)["reason"][:12]) for line in lines]


def test_a_rejected_picture_that_was_mended_is_one_and_one_of_another_source_is_two(
    source, tmp_path
):
    out, other = tmp_path / "out", tmp_path / "other"
    (source / "bad.jpg").write_bytes(b"text")
    (source / "worse.jpg").write_bytes(b"text")
    append(source, out)
    picture(300).save(source / "bad.jpg")
    append(source, out)
    assert reasons_of(out) == [("worse.jpg", "not a pictur")]
    assert manifest(out)["about"]["counts"]["found"] == 26
    other.mkdir()
    picture(301).save(other / "worse.jpg")
    append(other, out)
    assert reasons_of(out) == [("worse.jpg", "not a pictur")]
    counts = manifest(out)["about"]["counts"]
    assert counts == {"found": 27, "packed": 26, "rejected": 1, "duplicates": 0}
    assert verify([str(out)]) == 0


def listed(folder, out, lines, *flags):
    """Append what a list of 0.jpg and 1.jpg says, with its boxes."""
    (folder / "list.csv").write_text("\n".join(["file,x0,y0,x1,y1", *lines]))
    arguments = [str(folder / "list.csv"), str(out), "--boxes", "source", "--append", *flags]
    assert main(arguments) == 0
    return manifest(out)["about"]["counts"]


def test_a_second_box_of_a_picture_is_another_sample(tmp_path):
    picture(0).save(tmp_path / "0.jpg")
    out = tmp_path / "out"
    first, second = "0.jpg,0,0,10,10", "0.jpg,10,10,20,22"
    assert listed(tmp_path, out, [first])["packed"] == 1
    assert listed(tmp_path, out, [first, second])["packed"] == 2
    assert listed(tmp_path, out, [first, second])["found"] == 2
    assert [about["box"] for _, _, about in samples(out)] == [[0, 0, 10, 10], [10, 10, 20, 22]]


def test_equal_bytes_with_an_equal_box_are_left_out_and_the_whole_picture_is_not(tmp_path):
    picture(0).save(tmp_path / "0.jpg")
    shutil.copy(tmp_path / "0.jpg", tmp_path / "1.jpg")
    out, flags = tmp_path / "out", ("--dedupe", "exact")
    old = "0.jpg,0,0,10,10"
    assert listed(tmp_path, out, [old], *flags)["packed"] == 1
    equal, whole = "1.jpg,0,0,10,10", "1.jpg,,,,"
    counts = listed(tmp_path, out, [old, equal, whole], *flags)
    assert counts == {"found": 3, "packed": 2, "rejected": 0, "duplicates": 1}
    assert reasons_of(out) == [("1.jpg", "duplicate: h")]


def test_of_old_pictures_the_json_alone_is_read(source, tmp_path):
    append(source, tmp_path / "out")
    read = []

    class Counting(LocalStore):
        def read(self, name, start, size):
            read.append(size)
            return super().read(name, start, size)

    splits = read_splits(Counting(tmp_path / "out"))
    names = {kept.name for kept in pictures_in(Finished(splits), 2)}
    assert len(names) == 24
    rows = [read_index(tmp_path / "out", s) for split in splits.values() for s in split.shards]
    sizes = np.concatenate([row["json_size"] for row in rows])
    assert sorted(size for size in read if size) == sorted(sizes.tolist())


@pytest.mark.slow
@pytest.mark.parametrize("point", ["opened:2", "member:7", "flushed:3", "renamed:6", "renamed:11"])
def test_appending_that_is_killed_goes_on_and_the_old_set_stands_meanwhile(point, source, tmp_path):
    out = tmp_path / "out"
    append(source, out)
    old = tree(out)
    add(source)
    (source / "bad.jpg").write_bytes(b"text")
    shutil.copytree(out, tmp_path / "undisturbed")
    append(source, tmp_path / "undisturbed")
    command = [sys.executable, "-m", "shards.pack", str(source), str(out), *FLAGS, "--append"]
    environment = os.environ | {"DVAE_FAILPOINT": point}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (out / "manifest.json").read_bytes() == old["manifest.json"]
    for name, split in json.loads(old["manifest.json"])["splits"].items():
        assert split
        assert all((out / s["name"]).read_bytes() == old[s["name"]] for s in split), name
    append(source, out)
    assert tree(out) == tree(tmp_path / "undisturbed")
