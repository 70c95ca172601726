"""Lets Accelerate run its engines on the CPU, where it silently drops them: for tests only.

`DVAE_ENGINE` names the engine: nothing (one process or DDP), fsdp2, zero1, zero2 or zero3.
"""

import os

from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin


def put_in_place() -> None:
    """Patch this process's Accelerate, and name the engine as the launcher's environment would."""
    import dvae.session

    name = os.environ.get("DVAE_ENGINE", "")
    if name == "fsdp2":
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        dvae.session.Accelerator = with_fsdp2
    elif name:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        dvae.session.Accelerator = with_zero


def with_fsdp2(**arguments) -> Accelerator:
    """Accelerate turns FSDP on for every kind of world but the CPU's."""
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    accelerator = Accelerator(**arguments)
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    return accelerator


def with_zero(**arguments) -> Accelerator:
    """Accelerate ignores DeepSpeed where it was told of a CPU, and miscounts where it wasn't."""
    import deepspeed.comm.torch

    deepspeed.comm.torch.build_shm_op = lambda: None  # a C++ extension: minutes; gloo does without
    handlers = arguments["kwargs_handlers"]
    PartialState(cpu=True, timeout=handlers[0].timeout)
    os.environ.pop("ACCELERATE_USE_CPU", None)
    stage = int(os.environ["DVAE_ENGINE"][-1])
    plugin = DeepSpeedPlugin(zero_stage=stage, zero3_init_flag=False)
    return Accelerator(**arguments, deepspeed_plugin=plugin)
