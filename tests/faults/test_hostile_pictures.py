"""148 odd, damaged and hostile pictures, packed and trained on: every loss is named."""

import json

import pytest

from dvae.data.manifest import find_split
from dvae.data.reader import Reader
from shards.folder import Folder
from shards.sources import Plain, list_items
from tests.conftest import DOGS, RECIPE
from tests.faults.limited import MEMORY, run_limited
from tests.faults.shard_files import read_all

HOSTILE = DOGS / "hostile"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HOSTILE.is_dir(), reason="the photographs of ../shared aren't here"),
]


@pytest.mark.parametrize("size", [None, 48])
def test_the_hostile_pictures_pack_and_train_and_every_loss_is_named(tmp_path, train, size):
    out = tmp_path / "shards"
    options = ["--val", "0.2", "--workers", "2", *(["--size", size] if size else [])]
    ended = run_limited("shards.pack", HOSTILE, out, *options, seconds=60, RLIMIT_AS=4 << 30)
    assert ended.code == 0, ended.err
    assert ended.resident < MEMORY
    every = [path for path in HOSTILE.rglob("*") if path.is_file()]
    others = len(every) - len(list_items(Plain(Folder(HOSTILE))).pictures)
    assert f"(ignored: {others} other files)" in ended.out
    found = {item.name.decode() for item in list_items(Plain(Folder(HOSTILE))).pictures}
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert all(": " in line["reason"] or line["reason"].startswith("not") for line in rejected)
    packed = []
    for name in ("train", "val"):
        reader = Reader(find_split(out, name))
        packed += [reader.about(sample)["source"] for sample in range(len(reader))]
    assert sorted(packed + [line["source"] for line in rejected]) == sorted(found)
    assert not read_all(out).bad

    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(shards=out, runs=tmp_path / "runs"))
    assert train(recipe, "train.steps=2", "eval.every=2", "data.max_bad=0") == 0
    assert not (tmp_path / "runs" / "tiny" / "bad_samples.jsonl").exists()
