"""Row 54: memory that doesn't suffice, by limits that a process gives itself while it trains."""

import re

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from dvae.checkpoint import Checkpoints
from dvae.engine_checks import check_recipe
from dvae.errors import UserError, exit_code_of, is_out_of_memory
from dvae.out_of_memory import next_smaller
from dvae.recipe import load_config
from tests.conftest import give_network
from tests.faults.worlds import train_apart
from tests.test_distributed import recorded

# Some 10 MB a picture while training.
LARGE = ["model.image_size=128", "model.channels=[8,8]", "model.patch_size=1"]
LARGE += ["train.global_batch_size=32", "train.steps=3", "eval.every=3", "train.save_every=1"]
_GIVE_BACK = """  # what is freed, from M_MMAP_THRESHOLD on
import ctypes
ctypes.CDLL(None).mallopt(-3, 1_000_000)
"""
_LIMIT = """
import re, resource
if run.accelerator.process_index == {rank}:
    held = int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (held + ({room} << 20),) * 2)
"""


def limited(step, room, rank=0):
    """Let a process have so many MiB more from a step on."""
    steps = {0: _GIVE_BACK}
    steps[step] = steps.get(step, "") + _LIMIT.format(room=room, rank=rank)
    return steps


def smaller_size(said):
    """The last size that `auto` took."""
    sizes = re.findall(r"out of memory with \d+ pictures at a time: now (\d+)", said)
    assert sizes, said
    return int(sizes[-1])


def files_of(recipe, name, step):
    folder = recipe.parent / "runs" / name / "checkpoints" / f"step-{step:08d}"
    return {
        file: load_file(folder / file) for file in ("model.safetensors", "optimizer.safetensors")
    }


@pytest.mark.slow
def test_auto_takes_smaller_parts_on_all_processes_and_changes_nothing(recipe, train, tmp_path):
    short = [*LARGE, "train.steps=2", "eval.every=2"]
    auto = [*short, "train.micro_batch_size=auto"]
    one = train_apart(tmp_path / "1", recipe, *auto, "run.name=auto", at_step=limited(0, 280))
    assert one.codes == [0], one.err
    named = f"train.micro_batch_size={smaller_size(one.out)}"
    assert train(recipe, *short, "run.name=named", named) == 0
    found, expected = files_of(recipe, "auto", 2), files_of(recipe, "named", 2)
    for file, tensors in expected.items():
        assert all(torch.equal(found[file][name], tensor) for name, tensor in tensors.items())

    two = train_apart(  # only one of them is short of it, and under way
        tmp_path / "2", recipe, *auto, "run.name=two", processes=2, at_step=limited(1, 150, rank=1)
    )
    assert two.codes == [0, 0], two.err
    assert smaller_size(two.out) < 16  # told by the other one
    alone, both = recorded(tmp_path / "1", 1), recorded(tmp_path / "2", 2)
    assert [step[0] for step in both] == [step[0] for step in alone]
    for a, b in zip(alone, both, strict=True):
        assert b[1:] == pytest.approx(a[1:], rel=1e-4)


@pytest.mark.slow
def test_a_run_without_memory_says_what_would_fit_and_its_checkpoint_is_whole(
    recipe, train, tmp_path
):
    done = train_apart(tmp_path / "1", recipe, *LARGE, at_step=limited(2, 280))
    assert done.codes == [6], done.err
    message = done.err.splitlines()[-1]
    assert message.startswith("error: out of memory (")
    assert "Traceback" not in done.err
    assert "each process took 32 pictures of 128x128 through the network" in message
    assert "train.micro_batch_size=0, train.global_batch_size=32, processes: 1" in message
    checkpoints = Checkpoints(recipe.parent / "runs" / "tiny" / "checkpoints", 1)
    path, damaged = checkpoints.newest()
    assert (path.name, damaged) == ("step-00000002", [])
    remedy = re.search(r"set (train.micro_batch_size=16) \(or auto", message)[1]
    assert train(recipe, *LARGE, remedy) == 0
    assert checkpoints.newest()[0].name == "step-00000003"


@pytest.mark.parametrize("engine", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_auto_is_refused_by_name_where_processes_exchange_weights_amid_a_pass(recipe, engine):
    config = load_config(recipe, ["train.micro_batch_size=auto"])
    with pytest.raises(UserError, match=f"auto can't be used: processes under {engine.value}"):
        check_recipe(engine, config)


def test_auto_is_refused_where_a_batch_can_not_be_split(recipe, train, capsys):
    give_network(recipe, "dogvae")
    assert train(recipe, "train.micro_batch_size=auto") == 2
    assert "model.name=dogvae normalises by the statistics of its batch" in capsys.readouterr().err


def test_a_part_is_at_most_half_and_divides_the_share():
    assert [next_smaller(size, 12) for size in (12, 6, 4, 3, 2, 1)] == [6, 3, 2, 1, 1, 0]
    assert next_smaller(7, 7) == 1


def test_an_allocation_that_fails_is_told_from_other_errors(capsys):
    assert exit_code_of(lambda: torch.empty(1 << 50, dtype=torch.uint8)) == 6  # of any command
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory (")
    with pytest.raises(RuntimeError, match="Boolean value"):
        exit_code_of(lambda: bool(torch.zeros(2)))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to …"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a pool"))
