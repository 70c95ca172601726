"""python -m shards.pack --append: new pictures become further shards, and old ones stay as they are."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from dvae.data.index import read_index
from dvae.data.manifest import read_splits
from dvae.data.storage import LocalStore
from shards.index import main as index
from shards.pack import main
from shards.verify import main as verify
from tests.pictures_on_disk import encoded
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


def test_new_pictures_become_further_shards_and_old_files_stay(source, tmp_path):
    out = tmp_path / "out"
    (source / "bad.jpg").write_bytes(b"text")
    append(source, out)  # nothing to append to yet: as without the flag
    old = tree(out)
    stats = {path.name: path.stat() for path in out.iterdir()}
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
    for name in old.keys() - {"manifest.json", "rejected.jsonl"}:  # not even to equal bytes
        now = (out / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (stats[name].st_ino, stats[name].st_mtime_ns)
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


def test_the_line_of_an_old_loss_stays_when_another_picture_has_its_name(source, tmp_path):
    out = tmp_path / "out"
    for name in ("bad.jpg", "worse.jpg"):
        (source / name).write_bytes(b"text")
    append(source, out)
    more = tmp_path / "more"
    more.mkdir()
    picture(500).save(more / "bad.jpg")
    (more / "worse.jpg").write_bytes(encoded(picture(501))[:300])
    append(more, out)
    lines = map(json.loads, (out / "rejected.jsonl").read_bytes().splitlines())
    reasons = sorted((line["source"], line["reason"].split(":")[0]) for line in lines)
    assert reasons == [
        ("bad.jpg", "not a picture"),
        ("worse.jpg", "damaged"),
        ("worse.jpg", "not a picture"),
    ]
    counts = manifest(out)["about"]["counts"]
    assert counts == {"found": 28, "packed": 25, "rejected": 3, "duplicates": 0}
    assert verify([str(out)]) == 0


@pytest.mark.parametrize("seed", range(4))
def test_losses_that_are_tried_again_are_counted_once(seed, source, tmp_path):
    out = tmp_path / "out"
    for name in (
        "bad.jpg",
        "worse.jpg",
    ):  # one is damaged and the other its duplicate, by the order
        (source / name).write_bytes(b"text")
    flags = ("--dedupe", "exact", "--seed", str(seed))
    append(source, out, *flags)
    for number in range(3):
        picture(500 + number).save(source / f"{number}.png")
        append(source, out, *flags)
        counts = manifest(out)["about"]["counts"]
        assert counts == {
            "found": 27 + number,
            "packed": 25 + number,
            "rejected": 1,
            "duplicates": 1,
        }


def test_other_options_are_not_appended(source, tmp_path, capsys):
    out = tmp_path / "out"
    append(source, out)
    add(source)
    assert main([str(source), str(out), *FLAGS]) == 2
    assert "give another folder, --append, or --overwrite" in capsys.readouterr().err
    assert main([str(source), str(out), *FLAGS[:-1], "8K", "--append"]) == 2
    assert "made otherwise" in capsys.readouterr().err
    assert main([str(source), str(out), "--append", "--overwrite"]) == 2


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


def test_a_half_appended_set_is_called_so_until_it_is_whole(source, tmp_path, capsys):
    out = tmp_path / "out"
    append(source, out)
    add(source)
    command = [sys.executable, "-m", "shards.pack", str(source), str(out), *FLAGS, "--append"]
    environment = os.environ | {"DVAE_FAILPOINT": "renamed:6"}
    subprocess.run(command, env=environment, capture_output=True, timeout=60)
    capsys.readouterr()
    assert verify([str(out)]) == 3
    said = capsys.readouterr()
    assert "half appended: run its python -m shards.pack --append again" in said.err
    assert "delete" not in said.out
    assert index([str(out)]) == 2
    append(source, out)
    assert verify([str(out)]) == 0
    mark = manifest(out)["about"]["options"]
    (out / ".packing").write_text(json.dumps(mark))  # as after a kill in the very last step
    assert verify([str(out)]) == 0


@pytest.mark.parametrize("dedupe", ["none", "exact"])
def test_of_the_old_samples_nothing_but_the_json_is_read(dedupe, source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    append(source, out, "--dedupe", dedupe)
    notes = sum(
        int(rows["json_size"].sum())
        for split in read_splits(out).values()
        for rows in (read_index(out, shard) for shard in split.shards)
    )
    add(source)
    sizes = []
    read = LocalStore.read

    def recorded(store, name, offset, size):
        sizes.append(size)
        return read(store, name, offset, size)

    monkeypatch.setattr(LocalStore, "read", recorded)
    append(source, out, "--dedupe", dedupe)
    assert sum(sizes) == notes * (1 if dedupe == "none" else 2)


def test_a_kill_between_the_lines_of_another_source_and_the_manifest_changes_nothing(
    source, tmp_path
):
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (source / "bad.jpg").write_bytes(b"text")
    append(source, out)
    picture(300).save(other / "0.jpg")
    (other / "bad.jpg").write_bytes((other / "0.jpg").read_bytes()[:300])
    shutil.copytree(out, tmp_path / "undisturbed")
    append(other, tmp_path / "undisturbed")
    command = [sys.executable, "-m", "shards.pack", str(other), str(out), *FLAGS, "--append"]
    environment = os.environ | {"DVAE_FAILPOINT": "renamed:5"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (out / "rejected.jsonl").read_text().count("bad.jpg") == 2
    assert manifest(out)["about"]["counts"]["rejected"] == 1
    append(other, out)
    assert tree(out) == tree(tmp_path / "undisturbed")
