"""`python -m dvae.plan` tells what a run would take, and refuses what the run would refuse."""

import json
import subprocess
import sys

import pytest

from dvae.plan import amount, main


def rows(text):
    return {line[:22].strip(): line[23:] for line in text.splitlines()}


def test_the_plan_of_a_run_is_printed_without_importing_torch(recipe, shards):
    command = "import sys; from dvae.plan import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    given = [str(recipe), "--world-size", "4", "data.window=8", "train.micro_batch_size=2"]
    out = subprocess.run(
        [sys.executable, "-c", command, *given], capture_output=True, text=True, check=True
    ).stdout
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
    ],
)
def test_what_the_run_would_refuse_the_plan_refuses(recipe, arguments, message, capsys):
    assert main([str(recipe), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_plan_needs_a_process(recipe, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([str(recipe), "--world-size", "0"])
    assert exit_.value.code == 2
    assert "--world-size=0 must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (999.7, "1 kB"), (1.234e15, "1.23 PB")]
)
def test_amounts_have_three_digits_and_a_unit(count, text):
    assert amount(count) == text
