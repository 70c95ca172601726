"""BatchNorm over several processes: the numbers of one process that has the whole batch."""

import os
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dvae.statistics import SharedBatchNorm2d, share_statistics

from .conftest import ROOT, give_network
from .processes import Part, run_together
from .test_distributed import launch, recorded

STEPS = int(os.environ.get("DVAE_TEST_STEPS", "0"))  # by hand
PARTS = (3, 1, 0)  # pictures of each process
_PART = """
import sys
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from dvae.statistics import SharedBatchNorm2d

distributed.init_process_group("gloo")
rank, folder = distributed.get_rank(), sys.argv[1]
given = load_file(f"{folder}/given.safetensors")
x, weights = (given[name].split([3, 1, 0])[rank] for name in ("x", "weights"))
x.requires_grad_()
norm = SharedBatchNorm2d(5).double()
out = norm(x)
(out * weights).sum().backward()
for parameter in norm.parameters():
    distributed.all_reduce(parameter.grad)
found = {"out": out, "x": x.grad, "scale": norm.weight.grad, "shift": norm.bias.grad}
found |= dict(norm.named_buffers())
save_file({n: t.detach().contiguous() for n, t in found.items()}, f"{folder}/{rank}.safetensors")
"""


def test_three_processes_have_the_outputs_gradients_and_statistics_of_one(tmp_path):
    generator = torch.Generator().manual_seed(0)
    shape = (sum(PARTS), 5, 4, 4)
    x, weights = (
        torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 1 for _ in range(2)
    )
    save_file({"x": x, "weights": weights}, tmp_path / "given.safetensors")
    command = [sys.executable, "-c", _PART, str(tmp_path)]
    ended = run_together([Part(command, ROOT, {})] * len(PARTS))
    assert [one.code for one in ended] == [0] * len(PARTS), ended
    ranks = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(len(PARTS))]
    x.requires_grad_()
    norm = nn.BatchNorm2d(5).double()
    out = norm(x)
    (out * weights).sum().backward()
    for name, whole in (("out", out), ("x", x.grad)):
        torch.testing.assert_close(torch.cat([rank[name] for rank in ranks]), whole)
    alike = {"scale": norm.weight.grad, "shift": norm.bias.grad} | dict(norm.named_buffers())
    for rank in ranks:
        for name, whole in alike.items():
            torch.testing.assert_close(rank[name], whole)


def test_a_network_keeps_its_tensors_and_measures_as_before():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 5, 5)
    before, tensors = model(x), model.state_dict()
    share_statistics(model)
    assert isinstance(model[1], SharedBatchNorm2d)
    assert torch.equal(model(x), before)
    assert all(value is not None for value in tensors.values())
    assert model.state_dict().keys() == tensors.keys()


@pytest.mark.slow
@pytest.mark.skipif(not STEPS, reason="minutes: DVAE_TEST_STEPS names the steps")
def test_the_historical_network_has_one_curve_on_one_process_and_on_two(recipe, tmp_path):
    give_network(recipe, "dogvae")
    curves, weights = [], []
    for processes in (1, 2):
        record = tmp_path / f"record-{processes}"
        record.mkdir()
        overrides = [f"run.name=on-{processes}", "train.precision=fp64", "eval.images=4"]
        overrides += [
            "train.global_batch_size=4",
            f"train.steps={STEPS}",
            f"train.save_every={STEPS}",
            f"eval.every={STEPS}",
        ]
        launch(recipe, processes, *overrides, record=record)
        curves.append(recorded(record, processes))
        folder = recipe.parent / "runs" / f"on-{processes}" / "weights"
        weights.append(load_file(folder / "model.safetensors"))
    for a, b in zip(*curves, strict=True):
        assert a[0] == b[0]
        assert b[1:3] == pytest.approx(a[1:3], rel=1e-9)
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-6, atol=1e-9)
