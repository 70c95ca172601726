"""Row 53: numbers that go wrong in one of two real processes, and batches without contrast."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from shards.pack import main as pack
from tests.faults.worlds import train_apart

# In the second process alone, in its own pass: the network's sums and the all-reduce do the rest.
_POISON = """
import dvae.gradients as module
if run.accelerator.process_index == 1:
    honest = module.loss_terms
    def poisoned(*arguments):
        module.loss_terms = honest
        terms = honest(*arguments)
        {what}
        return terms
    module.loss_terms = poisoned
"""
BAD_LOSS = _POISON.format(what="terms = terms._replace(nll=terms.nll * float('nan'))")
HUGE_LOSS = _POISON.format(
    what="terms = terms._replace(nll=terms.nll + 1e9)"
)  # its gradient is as before
BAD_SLOPE = _POISON.format(what="terms.nll.register_hook(lambda slope: slope * float('inf'))")
HUGE_SLOPE = _POISON.format(what="terms.nll.register_hook(lambda slope: slope * 1e6)")
_DIGEST = """
import hashlib, sys
data = b"".join(p.detach().numpy().tobytes() for p in run.bare.parameters())
sys.stdout.write(f"weights {hashlib.sha256(data).hexdigest()}\\n")
"""
OVERRIDES = ["train.save_every=2", "eval.every=100", "data.flip=false"]


def two(recipe, tmp_path, guard, steps, *overrides, **at_step):
    """Train on two processes; what came of it, and the lines of guard.jsonl by step."""
    codes = {int(name[1:]): code for name, code in at_step.items()}
    options = [*OVERRIDES, f"train.guard={guard}", f"train.steps={steps}", *overrides]
    done = train_apart(tmp_path / "record", recipe, *options, processes=2, at_step=codes)
    run = recipe.parent / "runs" / "tiny"
    lines = [json.loads(line) for line in (run / "guard.jsonl").read_text().splitlines()]
    by_step = {line["step"]: [] for line in lines}
    for line in sorted(lines, key=lambda line: line["process"]):
        by_step[line["step"]].append(line)
    return done, by_step


def check_reports(by_step, reasons, guard, record):
    """Each step's samples, of both processes, and one reason."""
    ids = [
        {
            json.loads(line)["step"]: json.loads(line)["ids"]
            for line in file.read_text().splitlines()
        }
        for file in sorted(record.glob("rank-*.jsonl"))
    ]
    assert by_step.keys() == reasons.keys()
    for step, lines in by_step.items():
        assert [line["process"] for line in lines] == [0, 1]
        assert [line["samples"] for line in lines] == [ids[0][step - 1], ids[1][step - 1]]
        assert {line["guard"] for line in lines} == {guard}
        assert all(reasons[step] in line["reason"] for line in lines)
        assert lines[0]["reason"] == lines[1]["reason"]


def check_finite(run):
    """Everything on the disk."""
    files = [*run.rglob("*.safetensors")]
    assert len(files) > 3
    for path in files:
        assert all(torch.isfinite(t).all() for t in load_file(path).values()), path


def check_same_weights(done):
    digests = [line for line in done.out.splitlines() if line.startswith("weights ")]
    assert len(digests) == 2
    assert len(set(digests)) == 1


@pytest.mark.slow
def test_two_processes_leave_out_a_batch_that_went_wrong_on_one(recipe, tmp_path):
    bad = {"_1": BAD_LOSS, "_2": BAD_SLOPE, "_8": HUGE_LOSS, "_9": HUGE_SLOPE, "_10": _DIGEST}
    done, by_step = two(recipe, tmp_path, "skip", 11, **bad)
    assert done.codes == [0, 0], done.err
    reasons = {2: "its loss is not finite", 3: "its gradient is not finite"}
    reasons |= {9: "is more than 100 times the usual", 10: "or more than 100 times the usual"}
    check_reports(by_step, reasons, "skip", tmp_path / "record")
    check_same_weights(done)
    check_finite(recipe.parent / "runs" / "tiny")
    assert done.out.count("left out") == 4  # said once, by the first


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", ["0", "auto"])
def test_two_processes_go_back_together(recipe, tmp_path, micro_batch):
    codes = {"_4": BAD_SLOPE, "_7": BAD_LOSS, "_9": _DIGEST}
    micro = f"train.micro_batch_size={micro_batch}"
    done, by_step = two(recipe, tmp_path, "rollback", 10, micro, **codes)
    assert done.codes == [0, 0], done.err
    reasons = {5: "its gradient is not finite", 8: "its loss is not finite"}
    check_reports(by_step, reasons, "rollback", tmp_path / "record")
    assert "back to the weights of step 4" in done.out
    assert "back to the weights of step 6" in done.out
    check_same_weights(done)
    check_finite(recipe.parent / "runs" / "tiny")


@pytest.mark.slow
def test_two_processes_stop_together_before_the_step(recipe, tmp_path):
    done, by_step = two(recipe, tmp_path, "stop", 10, _5=BAD_SLOPE)
    assert done.codes == [5, 5], done.err
    check_reports(by_step, {6: "its gradient is not finite"}, "stop", tmp_path / "record")
    run = recipe.parent / "runs" / "tiny"
    steps = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert steps == ["step-00000002", "step-00000004"]
    check_finite(run)


@pytest.mark.parametrize("scale", ["optimal", "10.0"])
def test_pictures_of_one_colour_do_not_break_a_run(recipe, train, tmp_path, scale):
    for number in range(48):
        Image.new("RGB", (36, 36)).save(tmp_path / f"{number}.png")
    black = tmp_path / "black"
    assert pack([str(tmp_path), str(black)]) == 0
    options = [f"data.train={black}", f"data.val={black}", f"loss.scale={scale}", "train.steps=12"]
    assert train(recipe, *options, "eval.every=6") == 0
    check_finite(recipe.parent / "runs" / "tiny")


# What Accelerate does for fp16 on a GPU, with torch's own scaler of the CPU; each gradient overflows.
_OVERFLOWING = """
import torch
from accelerate.optimizer import AcceleratedOptimizer
import dvae.gradients as module
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-8)
run.accelerator.scaler = scaler
run.engine.optimizer = AcceleratedOptimizer(run.engine.plain_optimizer, scaler=scaler)
run.accelerator.native_amp, run.accelerator.state._mixed_precision = True, "fp16"
honest = module.loss_terms
def overflowing(*arguments):
    terms = honest(*arguments)
    terms.nll.register_hook(lambda slope: slope * float("inf"))
    return terms
module.loss_terms = overflowing
"""


@pytest.mark.slow
def test_a_loss_scale_that_collapses_under_way_is_named_and_moves_no_weight(recipe, tmp_path):
    options = [*OVERRIDES, "train.save_every=1", "train.steps=9"]
    done = train_apart(tmp_path / "1", recipe, *options, at_step={0: _OVERFLOWING})
    assert done.codes == [5], done.err
    # 2^-8 is halved at steps 1 to 3, and found to be below 2^-10 at the fourth.
    assert "step 4 (epoch 1): the loss scale of fp16 has collapsed to 0.000488" in done.err
    assert "take train.precision=bf16" in done.err
    checkpoints = recipe.parent / "runs" / "tiny" / "checkpoints"
    first, last = (
        load_file(checkpoints / f"step-0000000{step}" / "model.safetensors") for step in (2, 3)
    )
    assert all(torch.equal(first[name], tensor) for name, tensor in last.items())
    assert json.loads((checkpoints / "step-00000003" / "state.json").read_text())["norms"] == []
    check_finite(recipe.parent / "runs" / "tiny")
