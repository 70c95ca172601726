"""Real processes: the same ids, losses and weights however the global batch is split (contract 2)."""

import contextlib
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from dvae.data.manifest import find_split
from shards.pack import main as pack

from .conftest import ROOT

STEPS = 50
SPLITS = {"1x16": (1, 0), "2x8": (2, 0), "2x4x2": (2, 4)}


def launch(recipe, processes, *overrides, record=None, expect=0, config="cpu"):
    """Run the trainer by `accelerate launch` on the CPU, as launch/README.md says."""
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "DVAE_RECORD": str(record),
    }
    yaml = f"{config}.yaml" if processes > 1 else "single_gpu.yaml"
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(ROOT / "launch" / yaml), "--num_processes", str(processes)]
    command += [str(ROOT / "tests" / "recorded_train.py"), str(recipe), *overrides]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode == 0) == (expect == 0), done.stdout + done.stderr
    return done


def recorded(folder, processes):
    """Step by step: the global batch's ids, and what every process saw of the loss."""
    files = [folder / f"rank-{rank}.jsonl" for rank in range(processes)]
    ranks = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert {line["world"] for rank in ranks for line in rank} == {processes}
    steps = []
    for lines in zip(*ranks, strict=True):
        assert len({line["nll"] for line in lines}) == 1  # all processes agree
        ids = [sample for line in lines for sample in line["ids"]]
        steps.append((ids, lines[0]["nll"], lines[0]["kl"], lines[0]["grad_norm"]))
    return steps


@pytest.fixture(scope="module", params=["fp32", "fp64"])
def runs(request, shards, tmp_path_factory):
    """The same recipe under each split."""
    from .conftest import RECIPE

    folder = tmp_path_factory.mktemp(f"splits-{request.param}")
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(shards=shards, runs=folder / "runs"))
    results = {}
    for name, (processes, micro) in SPLITS.items():
        record = folder / name
        record.mkdir()
        overrides = [
            f"run.name={name}",
            f"train.steps={STEPS}",
            f"train.micro_batch_size={micro}",
            f"train.precision={request.param}",
            f"eval.every={STEPS}",
            f"train.save_every={STEPS}",
        ]
        launch(recipe, processes, *overrides, record=record)
        weights = load_file(folder / "runs" / name / "weights" / "model.safetensors")
        config = json.loads((folder / "runs" / name / "weights" / "config.json").read_text())
        results[name] = (recorded(record, processes), weights, config["metrics"])
    return request.param, results


@pytest.mark.slow
@pytest.mark.parametrize("split", ["2x8", "2x4x2"])
def test_a_split_batch_gives_the_same_ids_losses_and_weights(runs, split):
    precision, results = runs
    tolerance = {"fp32": 1e-4, "fp64": 1e-9}[precision]
    (whole, weights, metrics), (other, split_weights, split_metrics) = (
        results["1x16"],
        results[split],
    )
    assert len(whole) == len(other) == STEPS
    for a, b in zip(whole, other, strict=True):
        assert a[0] == b[0]
        assert b[1:3] == pytest.approx(a[1:3], rel=tolerance)
        assert b[3] == pytest.approx(a[3], rel=10 * tolerance)
    assert weights.keys() == split_weights.keys()
    distance = sum(
        float((t.double() - split_weights[n].double()).square().sum()) for n, t in weights.items()
    )
    length = sum(float(t.double().square().sum()) for t in weights.values())
    assert (distance / length) ** 0.5 < 10 * tolerance
    assert split_metrics == pytest.approx(metrics, rel=1e-3)


@pytest.fixture
def busy_port():
    """The port that a launcher takes by itself is another job's."""
    with socket.socket() as listener:
        with contextlib.suppress(OSError):  # it is in use anyway
            listener.bind(("127.0.0.1", 29500))
            listener.listen()
        yield


@pytest.mark.slow
def test_a_run_of_two_processes_over_one_shard_goes_on_as_one(
    recipe, pictures, tmp_path, busy_port
):
    """Saved by 2 processes, resumed by 1 and by 2: the same ids, nearly the same loss."""
    one = tmp_path / "one"
    assert pack([str(pictures), str(one), "--size", "36", "--val", "0.25"]) == 0
    assert len(find_split(one, "train").shards) == 1
    for name, second in (("even", 2), ("odd", 1)):
        for part, (processes, steps) in enumerate(((2, 6), (second, 12))):
            record = tmp_path / f"{name}-{part}"
            record.mkdir()
            launch(
                recipe,
                processes,
                f"run.name={name}",
                f"train.steps={steps}",
                f"data.train={one}",
                "optim.schedule=constant",
                record=record,
                config="multi_gpu",  # which names no port
            )
    even, odd = recorded(tmp_path / "even-1", 2), recorded(tmp_path / "odd-1", 1)
    assert len(even) == len(odd) == 6
    for a, b in zip(even, odd, strict=True):
        assert a[0] == b[0]
        assert b[1:3] == pytest.approx(a[1:3], rel=1e-4)


@pytest.mark.slow
def test_strangers_that_think_they_are_alone_are_refused(recipe, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"}
    if torch.cuda.is_available():
        pytest.skip("with a GPU the processes find each other")
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(ROOT / "launch" / "cpu.yaml"), "-m", "dvae.train", str(recipe)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "2 processes were launched and each sees 1" in done.stdout + done.stderr


def test_a_process_group_that_ends_waits_for_nobody():
    command = [sys.executable, "-m", "tests.ended_groups"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
