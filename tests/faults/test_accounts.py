"""Read and bad samples make up the plan, over all lives of a run: `bad_samples.jsonl` names each loss once."""

import json
import shutil

import pytest

from dvae.data.manifest import find_split
from dvae.data.reader import Reader
from tests.faults.shard_files import flip
from tests.faults.worlds import train_apart

BAD = {"train": range(0, 48, 3), "val": (1, 4)}
KILLED = "import os; run.saver.wait(); os.kill(os.getpid(), 9)"


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_after_a_kill_every_loss_is_named_once_and_makes_up_the_plan_with_what_was_read(
    recipe, shards, tmp_path
):
    copy = shutil.copytree(shards, tmp_path / "spoiled")
    for split, samples in BAD.items():
        reader = Reader(find_split(copy, split))
        for sample in samples:
            flip(copy / reader.place(sample).shard, reader.place(sample).offset + 77)
    options = [f"data.train={copy}", "data.max_bad=0.5", "train.save_every=2", "eval.every=3"]
    run, planned = recipe.parent / "runs" / "tiny", set()
    for life, (at_step, code) in enumerate([({5: KILLED}, -9), ({}, 0)]):
        record = tmp_path / f"life-{life}"
        assert train_apart(record, recipe, *options, at_step=at_step).codes == [code]
        planned |= {(s["step"] + 1, i) for s in lines_of(record / "rank-0.jsonl") for i in s["ids"]}
        lines = lines_of(run / "bad_samples.jsonl")
        assert life or lines[-1]["step"] == 5  # after the checkpoint of step 4
    bad = [(line["split"], line["step"], line["sample"]) for line in lines]
    assert len(set(bad)) == len(bad)
    assert {entry for entry in bad if entry[0] == "val"} == {("val", 3, n) for n in BAD["val"]}
    lost = {(step, sample) for split, step, sample in bad if split == "train"}
    assert lost == {(step, sample) for step, sample in planned if sample in BAD["train"]}
    assert len(planned) == 6 * 16
    state = json.loads((run / "checkpoints" / "step-00000006" / "state.json").read_text())
    assert state["bad_samples"] == len(lost)
