"""`python -m dvae.plan` tells what a run would take, and refuses what the run would refuse."""

import json
import re

import pytest
import torch

from dvae.networks import build
from dvae.plan import amount, main
from dvae.recipe import load_config
from tests.conftest import give_network
from tests.fault_server import serving


def rows(text):
    return {line[:22].strip(): line[23:] for line in text.splitlines()}


def test_the_plan_of_a_run_is_printed_without_a_process_group(recipe, shards, capsys):
    given = [str(recipe), "--world-size", "4", "--gpus-per-node=2", "--device=l4"]
    assert main([*given, "data.window=8", "train.micro_batch_size=2"]) == 0
    out = capsys.readouterr().out
    found = rows(out)
    splits = json.loads((shards / "manifest.json").read_text())["splits"]
    count = sum(shard["samples"] for shard in splits["train"])
    steps = count // 16
    assert f"{count} pictures, {len(splits['train'])} shards, " in out
    assert found["validation"] == f"{64 - count} pictures"
    assert found["steps"].startswith("6 of 16 pictures, ")
    assert found["epoch"] == f"{steps} steps, {count % 16} pictures wait"
    assert found["processes"] == "4, each 4 pictures a step in 2 parts"
    assert found["a process, an epoch"].startswith(f"{steps * 4} pictures, ")
    assert found["a machine, an epoch"].endswith(", 2 machines")
    assert found["memory (estimate)"].split()[0] == "weights"
    assert found["fits l4"].startswith("DDP, launch/multi_node.yaml: ")
    assert not torch.distributed.is_initialized()


def test_1024_processes_are_planned_from_a_manifest_alone(recipe, tmp_path, capsys):
    shard = {"bytes": 10**9, "sha256": "0" * 64, "index_sha256": "0" * 64, "samples": 10_000}
    train = [shard | {"name": f"train-{number:06}.tar"} for number in range(200)]
    splits = {"train": train, "val": [shard | {"name": "val-000000.tar"}]}
    (tmp_path / "manifest.json").write_text(
        json.dumps({"format": "dvae-shards/2", "splits": splits, "about": {}})
    )
    given = [f"data.train={tmp_path}", "data.window=32", "train.global_batch_size=8192"]
    assert main([str(recipe), *given, "--world-size", "1024", "--gpus-per-node", "8"]) == 0
    found = rows(capsys.readouterr().out)
    assert found["processes"] == "1,024, each 8 pictures a step in 1 parts"
    assert found["a machine, an epoch"].endswith(", 128 machines")
    size = sum(p.numel() * p.element_size() for p in build(load_config(recipe).model).parameters())
    assert found["all-reduce, a step"] == f"{amount(size)} of gradients, under DDP"
    sent = found["DDP"].split()[-2:]
    assert " ".join(sent) == amount(2 * 1023 / 1024 * size)


def test_what_is_held_of_remote_shards_is_told(recipe, shards, capsys):
    with serving(shards) as server:
        remote = [str(recipe), f"data.train={server.url}/data", "data.window=3"]
        assert main(remote) == 0
    assert rows(capsys.readouterr().out)["held in memory"].startswith("134 MB a process of remote")
    assert main([str(recipe), "data.window=3"]) == 0
    assert "held in memory" not in capsys.readouterr().out


def test_where_no_engine_fits_a_smaller_micro_batch_is_named(recipe, capsys):
    give_network(recipe, "klvae")
    big = ["--device=t4", "model.image_size=1024"]
    assert main([str(recipe), *big]) == 0
    line = rows(capsys.readouterr().out)["fits t4"]
    found = re.fullmatch(
        r"none as it is, 14.4 GB; one process, launch/single_gpu.yaml, with "
        r"train.micro_batch_size=(\d+)",
        line,
    )
    assert found
    assert main([str(recipe), *big, f"train.micro_batch_size={found[1]}"]) == 0
    assert rows(capsys.readouterr().out)["fits t4"].startswith("one process, ")
    assert main([str(recipe), "--device=t4", "model.image_size=4096"]) == 0
    assert "not even one picture" in rows(capsys.readouterr().out)["fits t4"]


def test_the_plan_of_a_mixture_shows_each_source_s_share(recipe, shards, capsys):
    sources = f'data.sources=[{{path="{shards}", weight=3}}, {{path="{shards}", weight=5}}]'
    assert main([str(recipe), "data.train=", sources, "--world-size=2"]) == 0
    out = capsys.readouterr().out
    assert "6 of every 16 drawn" in out
    assert "10 of every 16 drawn" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--world-size", "3"], "train.global_batch_size=16 can't be shared out over 3 processes"),
        (["train.micro_batch_size=3"], "train.micro_batch_size=3 doesn't divide"),
        (["train.global_batch_size=640"], "fewer than train.global_batch_size=640"),
        (["data.train=/nowhere"], "/nowhere is not a folder"),
        (["trian.steps=3"], "unknown key"),
        (["--world-size", "2", "train.global_batch_size=15"], "can't be shared out over 2"),
    ],
)
def test_what_the_run_would_refuse_the_plan_refuses(recipe, arguments, message, capsys):
    assert main([str(recipe), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_network_with_batch_statistics_is_refused_as_in_training(recipe, capsys):
    give_network(recipe, "dogvae")
    assert main([str(recipe), "train.micro_batch_size=4"]) == 2
    assert "normalises by the statistics of its batch" in capsys.readouterr().err
    assert main([str(recipe), "--world-size", "2"]) == 0
    told = capsys.readouterr().out
    assert told.count("its statistics over all processes were never tried") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--world-size=0"], "--world-size=0 must be at least 1"),
        (["--gpus-per-node=0"], "--gpus-per-node=0 must be at least 1"),
        (["--world-size=12"], "--world-size=12 must be a multiple of --gpus-per-node=8"),
        (["--device=abacus"], "invalid choice: 'abacus'"),
    ],
)
def test_machines_that_cannot_be_are_refused(recipe, arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([str(recipe), *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (999.7, "1 kB"), (1.234e15, "1.23 PB")]
)
def test_amounts_have_three_digits_and_a_unit(count, text):
    assert amount(count) == text
