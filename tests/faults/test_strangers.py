"""What strangers send runs nothing, writes nowhere else, and ends with the documented exit code.

Each probe is a way into the toolkit, given something hostile, with no environment variable set. A
canary that a payload would make, and a folder beside the one that is worked in, show what escaped.
"""

import json
import os
import pickle
from pathlib import Path

import pytest

from dvae.cli import main as dvae
from dvae.data.manifest import find_split
from dvae.train import main as train_main
from shards.index import main as index
from shards.inspect import main as inspect
from shards.pack import main as pack
from shards.verify import main as verify
from tests.conftest import RECIPE
from tests.faults.shard_files import make_shards, picture, read_all, write_tar
from tests.faults.strangers import (
    COMMANDS,
    PICKLES,
    PICTURES,
    TARS,
    Touch,
    one_error,
    pickled,
    picture_of,
)
from tests.faults.test_strange_runs import LINKS, NAMES, RUNS, WAYS


def test_the_payload_of_the_probes_is_a_real_one(world):
    pickle.loads(pickle.dumps(Touch(world.canary)))
    world.canary.unlink()


@pytest.mark.parametrize("extension", PICKLES)
def test_a_member_that_runs_code_when_it_is_unpickled_is_never_decoded(world, extension):
    payload = pickled(world.canary, extension)
    entries = [
        (f"a.{extension}", payload),
        ("a.jpg", picture(0)),
        (f"b.{extension}", payload),
        ("c.json", payload),
        ("c.jpg", payload),
        (f"d.{extension}.jpg", picture(1)),
    ]
    write_tar(world.inside / "train-0.tar", entries)
    assert index(["."]) == 0
    assert verify(["."]) == 0
    read = read_all(Path())
    assert read.delivered == {0: picture(0)}
    assert "it can't be decoded" in read.bad[1].reason
    assert find_split(Path(), "train").counts.sum() == 2


def in_a_list(place, _):
    Path("list.txt").write_text(f"{place}\n")
    return pack(["list.txt", "out"])


def in_a_manifest(place, _, enter=verify):
    folder = make_shards(Path("made"), shards=1, samples=16)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"][0]["name"] = f"{place}.tar"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return enter([str(folder)])


def as_a_base(place, _, enter=verify):
    folder = make_shards(Path("made"), shards=1, samples=16)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"base": place}))
    return enter([str(folder)])


def trained_on(arguments):
    make_shards(Path("data"), samples=16)
    Path("recipe.toml").write_text(RECIPE.format(shards=arguments[0], runs="runs"))
    return train_main(["recipe.toml", "data.val=data"])


def in_a_recipe(place, run, key="train"):
    text = RECIPE.format(shards="data", runs="runs")
    lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
    lines.insert(lines.index("[data]") + 1, f"{key} = {json.dumps(place)}")
    if key == "val":
        make_shards(Path("data"), samples=16)
    Path("recipe.toml").write_text("\n".join(lines))
    return train_main(["recipe.toml"])


def by_an_override(place, *_):
    Path("recipe.toml").write_text(RECIPE.format(shards="", runs="runs"))
    return train_main(["recipe.toml", f"data.sources=[{{path={json.dumps(place)}}}]"])


def as_a_start(place, *_):
    make_shards(Path("data"), samples=16)
    Path("recipe.toml").write_text(RECIPE.format(shards="data", runs="runs"))
    return train_main(["recipe.toml", "data.val=data", f"train.start={json.dumps(place)}"])


ENTRIES = {
    "a recipe's data.train": in_a_recipe,
    "a recipe's data.val": lambda place, run: in_a_recipe(place, run, "val"),
    "an override's data.sources": by_an_override,
    "an override's train.start": as_a_start,
    "shards.index": lambda place, _: index([f"./{place}" if place == "-" else place]),
    "shards.verify": lambda place, _: verify([f"./{place}" if place == "-" else place]),
    "shards.pack": lambda place, _: pack([f"./{place}" if place == "-" else place, "out"]),
    "shards.inspect": lambda place, _: inspect(
        [f"./{place}" if place == "-" else place, "--out=o"]
    ),
    "a list of pictures": in_a_list,
    "a manifest's shard": in_a_manifest,
    "a manifest's base": as_a_base,
    "a manifest's shard, trained on": lambda place, _: in_a_manifest(place, _, trained_on),
    "a manifest's base, trained on": lambda place, _: as_a_base(place, _, trained_on),
    "dvae evaluate": lambda place, run: dvae(["evaluate", str(run), "--", place]),
    "dvae encode": lambda place, run: dvae(["encode", str(run), "--", place, "out"]),
    "dvae sample": lambda place, _: dvae(["sample", "--", place]),
    "dvae doctor": lambda place, _: dvae(["doctor", f"--shards={place}"]),
}


READ_THEN = ("a manifest's shard", "a manifest's base")  # verify: what falls short is data


@pytest.mark.parametrize("form", COMMANDS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_command_for_a_place_is_refused(world, a_run, train, capsys, entry, form):
    code = ENTRIES[entry](form.replace("CANARY", str(world.canary)), a_run)
    if entry == "dvae doctor":
        assert code == 1
        assert capsys.readouterr().out.count("wrong    shards") == 1
    else:
        one_error(capsys, code, 3 if entry in READ_THEN else 2)


def test_a_tar_with_the_name_of_a_command_is_not_indexed(world, capsys):
    make_shards(Path(), shards=1)
    Path("train-000000.tar").rename(f"pipe:touch {world.canary.name};.tar")
    one_error(capsys, index(["."]))


@pytest.mark.parametrize("form", TARS)
def test_a_member_that_leads_elsewhere_stays_in_its_tar(world, capsys, form):
    made = TARS[form](world.secret)
    Path("train-0.tar").write_bytes(made)
    assert pack(["train-0.tar", "out"]) == 0
    for folder in (Path("out"), Path()):
        assert folder.name or index(["."]) == 0
        assert picture(9) not in read_all(folder).delivered.values()
    assert sorted(os.listdir()) == sorted(
        [".lock", "manifest.json", "out", "skipped.jsonl", "train-0.index.npy", "train-0.tar"]
    )


@pytest.mark.parametrize("form", PICTURES)
def test_a_picture_that_is_more_or_less_is_packed_as_it_is_or_named(world, form):
    name, data = picture_of(form, world.canary)
    Path("found").mkdir()
    (Path("found") / name).write_bytes(data)
    (Path("found") / "good.jpg").write_bytes(picture(0))
    assert pack(["found", "out"]) == 0
    rejected = (Path("out") / "rejected.jsonl").read_text().splitlines()
    delivered = read_all(Path("out")).delivered.values()
    assert set(delivered) <= {picture(0), data}
    assert len(delivered) + len(rejected) == 2
    write_tar(Path("train-0.tar"), [("a.jpg", data), ("b.jpg", picture(0))])
    assert index(["."]) == 0
    read = read_all(Path())
    assert picture(0) in read.delivered.values()
    assert len(read.delivered) + len(read.bad) == 2
    assert len(read.bad) == len(rejected)


def test_there_are_at_least_forty_probes(record_property):
    counts = {
        "pickles": len(PICKLES),
        "command URLs": len(ENTRIES) * len(COMMANDS),
        "tars": len(TARS),
        "pictures": len(PICTURES),
        "runs": len(RUNS) + len(LINKS),
        "names": len(WAYS) * len(NAMES),
    }
    record_property("probes", sum(counts.values()))
    assert counts["pickles"] >= 8
    assert len(ENTRIES) >= 6
    assert counts["tars"] >= 10
    assert counts["pictures"] >= 8
    assert counts["runs"] >= 10
    assert sum(counts.values()) >= 40
