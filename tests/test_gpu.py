"""What only an accelerator can show: run with `-m gpu`; skipped where there is none."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from dvae.data.batches import Loader, Pictures
from dvae.data.manifest import find_split
from dvae.data.plans import evaluation_plan
from dvae.data.reader import Reader

from .conftest import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def train(recipe, *overrides, cpu=False):
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"}
    if cpu:
        environment["ACCELERATE_USE_CPU"] = "true"
    command = [sys.executable, "-m", "dvae.train", str(recipe), *overrides]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_to_what_a_cpu_trains_to(recipe, precision):
    train(recipe, "run.name=gpu", f"train.precision={precision}")
    train(recipe, "run.name=cpu", cpu=True)
    runs = recipe.parent / "runs"
    weights = load_file(runs / "gpu" / "weights" / "model.safetensors")
    assert all(torch.isfinite(t).all() and t.dtype == torch.float32 for t in weights.values())
    scores = [
        json.loads((runs / name / "weights" / "config.json").read_text())["metrics"]["psnr"]
        for name in ("gpu", "cpu")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.01 if precision == "fp32" else 0.3)


def test_batches_lie_in_pinned_memory(shards):
    pictures = Pictures(Reader(find_split(shards, "train")), 32)
    with Loader(evaluation_plan(40, 8, 0, 1), pictures, threads=2) as loader:
        batches = list(loader)
    assert len(batches) == 5
    assert all(batch.images.is_pinned() and batch.images.any() for batch in batches)
