"""Every engine, as real processes: the same ids and losses, the same weights file, one checkpoint.

Accelerate drops its engines on a CPU; `engines_on_cpu` puts them back, for tests only.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from .conftest import RECIPE, ROOT
from .test_distributed import launch, recorded

# name -> engine, processes, micro-batch; DDP on 2 processes, whole and halved, is test_distributed's
WORLDS = {
    "ddp-4": ("", 4, 0),
    "fsdp2-2": ("fsdp2", 2, 0),
    "fsdp2-2x2": ("fsdp2", 2, 4),
    "zero1-2": ("zero1", 2, 0),
    "zero2-2x2": ("zero2", 2, 4),
    "zero3-2": ("zero3", 2, 0),
}
STEPS = {"fp32": 50, "fp64": 50, "bf16": 10}  # bf16 is slow on a CPU
TOLERANCE = {"fp32": 1e-4, "fp64": 1e-9, "bf16": 1e-2}  # of a step's loss, relative
HAS_DEEPSPEED = all(importlib.util.find_spec(name) for name in ("deepspeed", "transformers"))
CASES = [
    *((world, "fp32") for world in WORLDS),
    *((world, "fp64") for world in ("ddp-4", "fsdp2-2")),  # ZeRO refuses it: see below
    *((world, "bf16") for world in ("fsdp2-2", "zero2-2x2", "zero3-2")),
]

pytestmark = pytest.mark.slow


def run(folder, shards, engine, processes, name, *overrides, expect=0):
    """Train; returns the ids and losses of each step."""
    if engine.startswith("zero") and not HAS_DEEPSPEED:
        pytest.skip("DeepSpeed is not installed: pip install 'dvae[deepspeed]'")
    record = folder / f"record-{name}-{len(list(folder.iterdir()))}"
    record.mkdir()
    recipe = folder / "tiny.toml"
    if not recipe.exists():
        recipe.write_text(RECIPE.format(shards=shards, runs=folder / "runs"))
    chosen = [f"run.name={name}", "optim.schedule=constant", "train.save_every=50"]
    chosen += ["eval.every=50", *overrides]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVAE_ENGINE", engine)
        patch.setenv("DS_ACCELERATOR", "cpu")
        done = launch(recipe, processes, *chosen, record=record, expect=expect)
    return done.stdout + done.stderr if expect else recorded(record, processes)


def curves_agree(one, other, tolerance):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a[0] == b[0]  # ids, bit for bit
        assert b[1] + b[2] == pytest.approx(a[1] + a[2], rel=tolerance)  # the loss
        assert b[3] == pytest.approx(a[3], rel=100 * tolerance)  # the gradient's norm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def alone(folder, shards):
    """The curve of one process, by precision."""
    curves = {}

    def curve(precision):
        if precision not in curves:
            overrides = (f"train.steps={STEPS[precision]}", f"train.precision={precision}")
            curves[precision] = run(folder, shards, "", 1, f"alone-{precision}", *overrides)
        return curves[precision]

    return curve


@pytest.mark.parametrize(("world", "precision"), CASES)
def test_every_world_has_the_curve_of_one_process(folder, shards, alone, world, precision):
    engine, processes, micro = WORLDS[world]
    name = f"{world}-{precision}"
    found = run(
        folder,
        shards,
        engine,
        processes,
        name,
        f"train.steps={STEPS[precision]}",
        f"train.precision={precision}",
        f"train.micro_batch_size={micro}",
    )
    curves_agree(alone(precision), found, TOLERANCE[precision])
    exports = [folder / "runs" / run / "weights" for run in (f"alone-{precision}", name)]
    one, other = (load_file(path / "model.safetensors") for path in exports)
    assert {n: (t.shape, t.dtype) for n, t in one.items()} == {
        n: (t.shape, t.dtype) for n, t in other.items()
    }
    one, other = (json.loads((path / "config.json").read_text())["metrics"] for path in exports)
    assert other["psnr"] == pytest.approx(one["psnr"], rel=10 * TOLERANCE[precision])
    opens_without_dvae(exports[1] / "model.safetensors")


def opens_without_dvae(path):
    """A process that has torch and safetensors only finds finite tensors under plain names."""
    program = """
import sys
for name in ("dvae", "accelerate", "deepspeed", "huggingface_hub"):
    sys.modules[name] = None
import torch
from safetensors.torch import load_file
tensors = load_file(sys.argv[1])
assert tensors and all(torch.isfinite(t).all() for t in tensors.values())
assert not any(n.startswith(("module.", "_orig_mod.", "_fsdp")) for n in tensors)
"""
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, cwd="/")


TRAVELS = {
    "zero3 -> ddp -> fsdp2": (("zero3", 4), ("", 2), ("fsdp2", 2)),
    "fsdp2 -> zero2 -> zero3": (("fsdp2", 2), ("zero2", 2), ("zero3", 2)),
}


@pytest.mark.parametrize("worlds", TRAVELS.values(), ids=TRAVELS)
def test_a_checkpoint_goes_on_under_any_other_engine(tmp_path, folder, shards, alone, worlds):
    """Optimizer and average included: the curve and the weights are those of one life."""
    found = []
    for life, (engine, processes) in enumerate(worlds, start=1):
        found += run(tmp_path, shards, engine, processes, "moved", f"train.steps={8 * life}")
    curves_agree(alone("fp32")[:24], found, TOLERANCE["fp32"])
    if not (folder / "runs" / "one").exists():
        run(folder, shards, "", 1, "one", "train.steps=24")
    for file in ("model", "ema", "optimizer"):
        one, other = (
            load_file(run_folder / "checkpoints" / "step-00000024" / f"{file}.safetensors")
            for run_folder in (folder / "runs" / "one", tmp_path / "runs" / "moved")
        )
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            distance = (tensor - other[name]).norm() / tensor.norm().clamp(min=1e-6)
            assert distance < 1e-2, f"{file} {name}"


@pytest.mark.parametrize(
    ("engine", "override", "message"),
    [
        ("zero2", "train.precision=fp64", "DEEPSPEED keeps its weights in fp32"),
        ("zero3", "train.guard=skip", "can't be used under DeepSpeed"),
    ],
)
def test_what_an_engine_can_not_do_is_refused_by_name(tmp_path, shards, engine, override, message):
    assert message in run(tmp_path, shards, engine, 1, "refused", override, expect=1)


@pytest.mark.parametrize(("switch", "name"), [("FSDP", "FSDP"), ("DEEPSPEED", "DEEPSPEED")])
def test_an_engine_that_accelerate_drops_is_refused(recipe, switch, name):
    """Without the tests' shim the CPU gets no engine, and Accelerate says nothing."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", f"ACCELERATE_USE_{switch}": "true"}
    environment["FSDP_VERSION"] = "2"
    command = [sys.executable, "-m", "dvae.train", str(recipe)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert f"asks for {name} and Accelerate runs NO" in done.stderr
