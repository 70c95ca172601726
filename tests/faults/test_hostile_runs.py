"""Rows 31 and 36 to 38: what a run does with lost shards, bad samples and few descriptors."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from dvae.data.batches import Loader, Pictures
from dvae.data.manifest import find_split
from dvae.data.plans import evaluation_plan
from dvae.data.reader import Reader
from dvae.errors import UserError
from dvae.evaluate import evaluate_weights
from dvae.find import load
from tests.faults.limited import run_limited
from tests.faults.shard_files import flip, make_shards, read_all


def test_an_index_that_is_a_command_is_refused(tmp_path):
    folder = make_shards(tmp_path / "shards", shards=1)
    (folder / "train-000000.index.npy").write_bytes(b"pipe:touch probe")
    with pytest.raises(UserError, match="is not the index that manifest.json names"):
        read_all(folder)


def bad_samples(recipe: Path) -> list[dict]:
    path = recipe.parent / "runs" / "tiny" / "bad_samples.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_loss_of_a_run_is_named_and_read_and_bad_make_up_the_plan(
    recipe, train, shards, tmp_path
):
    copy = shutil.copytree(shards, tmp_path / "spoiled")
    spoiled = {}
    for name in ("train", "val"):
        reader = Reader(find_split(copy, name))
        for sample in (0, 3, 5):
            spoiled[name, sample] = reader.place(sample)
            flip(copy / reader.place(sample).shard, reader.place(sample).offset + 77)
    epoch = len(Reader(find_split(copy, "train"))) // 16
    assert train(recipe, f"data.train={copy}", "data.max_bad=0.5", f"train.steps={epoch * 2}") == 0
    lines = bad_samples(recipe)
    for line in lines:
        place = spoiled[line["split"], line["sample"]]
        assert (line["shard"], line["key"], line["offset"]) == tuple(vars(place).values())
        assert "CRC-32 differs" in line["reason"]
    counts = Counter((line["split"], line["epoch"], line["sample"]) for line in lines)
    assert set(counts.values()) == {1}
    assert [entry for entry in counts if entry[0] == "val"] == [("val", 0, n) for n in (0, 3, 5)]
    checkpoint = recipe.parent / "runs" / "tiny" / "checkpoints" / f"step-{epoch * 2:08d}"
    saved = json.loads((checkpoint / "state.json").read_text())
    assert saved["bad_samples"] == len(lines) - 3


def test_a_validation_split_with_too_many_bad_pictures_ends_the_run(
    recipe, train, shards, tmp_path, capsys
):
    copy = shutil.copytree(shards, tmp_path / "spoiled")
    reader = Reader(find_split(copy, "val"))
    flip(copy / reader.place(1).shard, reader.place(1).offset + 77)
    assert train(recipe, f"data.train={copy}") == 3
    assert f"1 of {len(reader)} validation pictures are bad" in capsys.readouterr().err
    assert [line["sample"] for line in bad_samples(recipe)] == [1]


def test_a_validation_that_loses_a_picture_is_a_fault_that_ends_the_run(
    recipe, train, trained, shards, monkeypatch
):
    for module in ("streams", "evaluate"):

        def losing(samples, *given):
            return evaluation_plan(samples - 1, *given)

        monkeypatch.setattr(f"dvae.{module}.evaluation_plan", losing)
    count = len(Reader(find_split(shards, "val")))
    lost = f"{count - 1} pictures measured and 0 bad ones are not the {count} planned"
    with pytest.raises(RuntimeError, match=lost):
        train(recipe, "run.name=losing")
    with pytest.raises(RuntimeError, match=lost):
        evaluate_weights(load(str(trained)), shards, "val")


def test_an_evaluation_names_what_it_leaves_out(trained, shards, tmp_path, capsys):
    copy = shutil.copytree(shards, tmp_path / "spoiled")
    reader = Reader(find_split(copy, "val"))
    flip(copy / reader.place(1).shard, reader.place(1).offset + 77)
    weights = load(str(trained))
    assert evaluate_weights(weights, copy, "val").images == len(reader) - 1
    assert f"left out: val-000000.tar, {reader.place(1).key} at byte" in capsys.readouterr().err
    for sample in {*range(len(reader))} - {1}:
        flip(copy / reader.place(sample).shard, reader.place(sample).offset + 77)
    with pytest.raises(UserError, match=f"none of the {len(reader)} pictures"):
        evaluate_weights(weights, copy, "val")


def test_missing_shards_end_a_run_with_code_3_or_are_skipped(
    recipe, train, shards, tmp_path, capsys
):
    copy = shutil.copytree(shards, tmp_path / "lost")
    (copy / "train-000001.tar").unlink()
    (copy / "train-000002.index.npy").unlink()
    assert train(recipe, f"data.train={copy}") == 3
    told = capsys.readouterr().err
    assert "train-000001.tar is missing" in told
    skip = "data.bad_shards=skip"
    assert skip in told
    assert train(recipe, f"data.train={copy}", skip) == 3
    assert "data.max_bad=0.01 allows" in capsys.readouterr().err
    assert train(recipe, f"data.train={copy}", skip, "data.max_bad=0.9", "train.steps=3") == 0
    assert f"train-000001.tar is missing; {copy}/train-000002.index" in capsys.readouterr().out
    lost = {line["sample"]: line["shard"] for line in bad_samples(recipe)}
    first, second, third = find_split(copy, "train").counts.tolist()
    assert sorted(lost) == list(range(first, first + second + third))
    assert {lost[first], lost[first + second]} == {"train-000001.tar", "train-000002.tar"}


def children():
    """The processes that this one started."""
    return {
        pid for p in Path("/proc/self/task").glob("*/children") for pid in p.read_text().split()
    }


def test_reading_starts_no_process_and_takes_no_shared_memory(tmp_path):
    reader = Reader(find_split(make_shards(tmp_path / "shards"), "train"))
    plan = evaluation_plan(len(reader), 4, 0, 1)
    before = children()
    with Loader(plan, Pictures(reader, 16), threads=2) as loader:
        for batch in loader:
            assert children() <= before
            assert not batch.images.is_shared()


def test_more_shards_than_open_files_are_read(tmp_path):
    folder = make_shards(tmp_path / "shards", shards=100, samples=1)
    code = """
from pathlib import Path
from tests.faults.shard_files import read_all
print(len(read_all(Path(sys.argv[1])).delivered), "delivered")
"""
    ended = run_limited("read", folder, code=code, seconds=60, RLIMIT_NOFILE=64)
    assert "100 delivered" in ended.out, ended.err


def test_a_lack_of_open_files_is_told_and_not_put_down_to_the_samples(tmp_path):
    folder = make_shards(tmp_path / "shards", shards=1)
    code = """
import contextlib, os
from pathlib import Path
from dvae.data.manifest import find_split
from dvae.errors import exit_code_of
from tests.faults.shard_files import Reader, read_all
reader = Reader(find_split(Path(sys.argv[1]), "train"))
read_all(Path(sys.argv[1]))
with contextlib.suppress(OSError):
    while True:
        os.dup(0)
sys.exit(exit_code_of(lambda: len(read_all(Path(sys.argv[1]), reader=reader).bad)))
"""
    ended = run_limited("read", folder, code=code, seconds=60, RLIMIT_NOFILE=64)
    assert ended.code == 2
    assert "train-000000.index.npy: Too many open files" in ended.err
