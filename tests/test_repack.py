"""Existing WebDataset shards as a source: ours, ShardWriter's, img2dataset's."""

import json

import pytest
import webdataset

from shards.pack import main
from tests.pictures_on_disk import drawn, samples, shard_bytes, write_files


def test_our_own_shards_packed_again_give_the_same_bytes(pictures, tmp_path, capsys):
    options = ["--val", "0.3", "--shard-bytes", "50K"]
    assert main([str(pictures), str(tmp_path / "a"), *options]) == 0
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--shard-bytes", "50K"]) == 0
    assert "source    webdataset" in capsys.readouterr().out
    assert len(shard_bytes(tmp_path / "a")) > 2
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset's
def test_foreign_shards_keep_pictures_labels_and_splits(tmp_path, capsys):
    (tmp_path / "foreign").mkdir()
    for split, start in (("train", 0), ("val", 10)):
        pattern = str(tmp_path / "foreign" / f"{split}-%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as writer:
            for number in range(start, start + 5):
                label = {"json": {"label": "chow"}} if number % 2 else {"cls": number}
                data = {"jpg": drawn(number), "txt": "a dog"}
                writer.write({"__key__": f"dir/sample.{number}"[:8] + f"{number}", **data, **label})
            writer.write({"__key__": f"none{start}", "txt": "without a picture"})
    (tmp_path / "foreign" / "00000_stats.json").write_text("{}")
    assert main([str(tmp_path / "foreign"), str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "found     10 pictures" in told
    assert "2 samples without a picture" in told
    got = {data: (split, about["label"]) for split, data, about in samples(tmp_path / "out")}
    assert got == {
        drawn(number): ("train" if number < 10 else "val", "chow" if number % 2 else str(number))
        for number in (*range(5), *range(10, 15))
    }


def test_json_that_is_hostile_is_only_a_missing_label(tmp_path):
    notes = [b"[" * 100_000, b'{"label": {"a": 1}, "source": "../x"}', b'{"label": null}', b"\xff"]
    import tarfile
    from io import BytesIO

    (tmp_path / "foreign").mkdir()
    with tarfile.open(tmp_path / "foreign" / "00000.tar", "w") as file:
        for number, note in enumerate(notes):
            for name, data in ((f"{number}.jpg", drawn(number)), (f"{number}.json", note)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, BytesIO(data))
    assert main([str(tmp_path / "foreign"), str(tmp_path / "out")]) == 0
    made = [about for _, _, about in samples(tmp_path / "out")]
    assert [about["label"] for about in made] == [None] * 4
    assert sorted(about["source"] for about in made) == [f"00000.tar/{n}.jpg" for n in range(4)]


def test_one_tar_is_a_folder_unless_its_layout_is_named(pictures, tmp_path):
    assert main([str(pictures), str(tmp_path / "a")]) == 0
    tar = tmp_path / "a" / "train-000000.tar"
    assert main([str(tar), str(tmp_path / "b"), "--layout", "webdataset"]) == 0
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")
    assert main([str(tar), str(tmp_path / "c")]) == 0
    assert {about["label"] for _, _, about in samples(tmp_path / "c")} == {None}
    assert json.loads((tmp_path / "c" / "manifest.json").read_bytes())


def test_a_folder_with_pictures_and_a_tar_is_a_folder(tmp_path):
    write_files(tmp_path / "photos", {"a.jpg": drawn(0), "old.tar": b"not even a tar"})
    assert main([str(tmp_path / "photos"), str(tmp_path / "out")]) == 0
    assert [about["source"] for _, _, about in samples(tmp_path / "out")] == ["a.jpg"]
