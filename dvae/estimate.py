"""What a process of a run holds and sends under each engine: an estimate.

Weights, gradients, state and activations are counted (`dvae.memory`). What DDP copies into its buckets, and
what FSDP2 and DeepSpeed gather and stage, follows from their defaults (torch 2.13, DeepSpeed 0.19) and
`dvae.engine`; none of it was measured on a GPU. What is sent is what rings of all processes send.
"""

from dataclasses import dataclass

from accelerate.utils import DistributedType

from dvae.config import Config
from dvae.engine_checks import check_recipe
from dvae.errors import UserError
from dvae.memory import Sizes

DEVICES = {  # bytes, as their makers count them
    "a100-40": 40e9,
    "a100-80": 80e9,
    "h100": 80e9,
    "h200": 141e9,
    "l4": 24e9,
    "l40s": 48e9,
    "rtx3090": 24e9,
    "rtx4090": 24e9,
    "rtx5090": 32e9,
    "t4": 16e9,
}
FREE = 0.1  # of a device, for backward's own maps, kernels' workspaces and the allocator
STAGED = 5 * 10**8  # numbers of DeepSpeed's buffer, reduce_bucket_size, whatever the network
LIVE = 10**9  # numbers that ZeRO-3 keeps gathered, stage3_max_live_parameters


@dataclass(frozen=True)
class Estimate:
    """Of one process under one engine, in bytes."""

    engine: str
    file: str  # in launch/
    parts: dict[str, float]
    sent: float  # by each process, a step
    refusal: str = ""  # why the engine can't take the recipe

    @property
    def total(self) -> float:
        """Bytes of the device."""
        return sum(self.parts.values())


def find_estimates(config: Config, sizes: Sizes, world_size: int, machines: int) -> list[Estimate]:
    """What each engine holds and sends, from the simplest to those that cut the most."""
    share = config.train.global_batch_size // world_size
    micro = config.train.micro_batch(world_size)
    times, cut, ring = share // micro, 1 / world_size, 1 - 1 / world_size
    w, g, staged = sizes.weights, sizes.gradients, STAGED * sizes.number
    gathered = min(2 * sizes.root + 3 * sizes.block, w + g)  # two blocks' weights, one's gradient
    live = min(w, LIVE * sizes.number)
    moved = 2 * times * w  # forward and backward both gather
    activations = sizes.once + micro * sizes.picture
    ddp = "multi_node.yaml" if machines > 1 else "multi_gpu.yaml"
    # engine, file, share of (weights, gradients, optimizer, average), buffers, sent
    rows: list[tuple[str, str, tuple[float, float, float, float], float, float]] = [
        ("DDP", ddp, (1, 1, 1, 1), g, 2 * (g + sizes.rival)),
        ("ZeRO-1", "deepspeed_zero1.yaml", (1, 1, cut, 1), staged + cut * w, g + w),
        ("ZeRO-2", "deepspeed_zero2.yaml", (1, cut, cut, 1), staged + cut * w, times * g + w),
        ("FSDP2", "fsdp2.yaml", (cut,) * 4, gathered, moved + g),
        ("ZeRO-3", "deepspeed_zero3.yaml", (cut,) * 4, staged + live + cut * w, moved + times * g),
    ]
    if world_size == 1:
        rows = [("one process", "single_gpu.yaml", (1, 1, 1, 1), 0, 0)]
    found = []
    for engine, file, (of_w, of_g, of_optimizer, of_average), buffers, sent in rows:
        parts = {
            "weights": of_w * w,
            "gradients": of_g * g,
            "optimizer": of_optimizer * sizes.optimizer,
            "average": of_average * sizes.average,
            "judges": sizes.judges,
            "activations": activations,
            "buffers": buffers,
        }
        found.append(Estimate(engine, file, parts, ring * sent, _refusal(config, file)))
    return found


def largest_micro_batch(sizes: Sizes, share: int, other: float, memory: float) -> int:
    """The largest part of a process's share that fits beside `other` bytes; 0: none does."""
    room = memory - other - sizes.once
    parts = (n for n in range(share, 0, -1) if share % n == 0)
    return next((n for n in parts if n * sizes.picture <= room), 0)


def _refusal(config: Config, file: str) -> str:
    engines = {"fsdp2": DistributedType.FSDP, "deepspeed": DistributedType.DEEPSPEED}
    asked = next((engine for name, engine in engines.items() if file.startswith(name)), None)
    try:
        check_recipe(asked, config)
    except UserError as error:
        return str(error)
    return ""
