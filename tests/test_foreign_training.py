"""What others packed, as they pack it, is indexed and trained on."""

import json
import subprocess

import pytest
import webdataset

from dvae.data.manifest import find_split
from dvae.data.reader import Reader
from shards.index import main as index
from tests.faults.shard_files import picture

SAMPLES = 40


def by_tar(folder):
    """GNU tar of a folder of pictures and classes, in the folder's own order but for the names'."""
    photos = folder.with_name("photos")
    photos.mkdir()
    for number in range(SAMPLES):
        (photos / f"{number:03d}.jpg").write_bytes(picture(number))
        (photos / f"{number:03d}.cls").write_text("beagle")
    command = ["tar", "--sort=name", "-cf", str(folder / "dogs.tar"), "."]
    subprocess.run(command, cwd=photos, check=True)


def by_shardwriter(folder):
    """webdataset's own, in several tars, with JSON."""
    with webdataset.ShardWriter(str(folder / "dogs-%06d.tar"), maxcount=15, verbose=0) as writer:
        for number in range(SAMPLES):
            note = {"label": "beagle"}
            writer.write({"__key__": f"{number:06d}", "jpg": picture(number), "json": note})


def by_img2dataset(folder):
    """Its names: a shard has five digits, a key these and four more; tables and counts beside."""
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as writer:
            for number in range(SAMPLES // 2):
                key = f"{shard:05d}{number:04d}"
                about = {"caption": "beagle", "key": key, "status": "success"}
                about |= {"url": f"https://host/{key}.jpg", "width": 24, "error_message": None}
                data = picture(shard * SAMPLES // 2 + number)
                members = {"jpg": data, "txt": "beagle", "json": json.dumps(about)}
                writer.write({"__key__": key, **members})
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": SAMPLES // 2}))


@pytest.mark.parametrize(
    ("pack", "about"),
    [(by_tar, "label"), (by_shardwriter, "label"), (by_img2dataset, "caption")],
    ids=["tar", "ShardWriter", "img2dataset"],
)
def test_tars_of_others_train_as_they_are(recipe, train, shards, tmp_path, pack, about):
    folder = tmp_path / "foreign"
    folder.mkdir()
    pack(folder)
    assert index([str(folder)]) == 0
    assert (folder / "skipped.jsonl").read_bytes() == b""
    reader = Reader(find_split(folder, "train"))
    assert {reader.picture(sample).data for sample in range(SAMPLES)} == set(
        map(picture, range(40))
    )
    assert [reader.about(sample)[about] for sample in range(SAMPLES)] == ["beagle"] * SAMPLES
    assert train(recipe, f"data.train={folder}", f"data.val={shards}", "train.steps=1") == 0
    assert not (recipe.parent / "runs" / "tiny" / "bad_samples.jsonl").exists()
