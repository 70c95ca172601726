"""Which engine the launch file asks for, and what of a recipe it can't do."""

import os

from accelerate import Accelerator
from accelerate.utils import DistributedType

from dvae.config import Config
from dvae.errors import UserError
from dvae.model_config import AutoencoderConfig, DogVAEConfig


def engine_asked_for() -> DistributedType | None:
    """The engine that the launch file names, or None for one process and DDP."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        return DistributedType.FSDP
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true":
        return DistributedType.DEEPSPEED
    return None


def check_engine(accelerator: Accelerator, config: Config) -> None:
    """Refuse an engine that isn't the one asked for, or doesn't do what the recipe asks.

    Raises:
        UserError: naming the engine.
    """
    asked, found = engine_asked_for(), accelerator.distributed_type
    if asked is None:
        return
    if found != asked:
        raise UserError(
            f"the launch file asks for {asked.value} and Accelerate runs {found.value}: without a GPU "
            "it drops the engine; take launch/cpu.yaml there"
        )
    if asked is DistributedType.FSDP and not accelerator.is_fsdp2:
        raise UserError(
            "fsdp_version=1 is not supported: set fsdp_version: 2, as launch/fsdp2.yaml"
        )
    check_recipe(asked, config)


def check_recipe(engine: DistributedType | None, config: Config) -> None:
    """Refuse a recipe that an engine can't do; None, one process or DDP, does all.

    Raises:
        UserError: naming the engine and the key.
    """
    if engine is None:
        return
    precision = config.train.precision
    refused = {"fp16": "scales the loss by itself: take bf16 or fp32"}
    if engine is DistributedType.DEEPSPEED:
        refused["fp64"] = "keeps its weights in fp32: take fp32 or bf16"
    if precision in refused:
        raise UserError(
            f"train.precision={precision} can't be used: {engine.value} {refused[precision]}"
        )
    if engine is DistributedType.DEEPSPEED and config.train.guard != "stop":
        raise UserError(
            f"train.guard={config.train.guard} can't be used under DeepSpeed, which keeps a gradient that was left "
            "out: take train.guard=stop, or launch/fsdp2.yaml"
        )
    if isinstance(config.model, DogVAEConfig | AutoencoderConfig):
        raise UserError(
            f"model.name={config.model.name} can't be used: its statistics over all processes were never "
            f"tried under {engine.value}: take launch/multi_gpu.yaml, or model.name=resvae"
        )
    if config.train.micro_batch_size == "auto":
        raise UserError(
            f"train.micro_batch_size=auto can't be used: processes under {engine.value} exchange weights "
            "amid a pass, so that one which runs out of memory can't begin it again: set the number "
            "that python -m dvae.plan finds, or take launch/multi_gpu.yaml"
        )
