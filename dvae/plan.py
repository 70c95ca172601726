"""What a run would take, before it is launched: `python -m dvae.plan RECIPE --world-size W`.

Reads the recipe and the manifests of its shards, starts no process, opens no shard and needs no GPU.
"""

import argparse
import sys
from pathlib import Path

from dvae.config import Config
from dvae.data.mixture import Mixture
from dvae.data.order import Order
from dvae.data.traffic import process_traffic
from dvae.data.windows import MAX_BYTES
from dvae.errors import exit_code_of
from dvae.estimate import DEVICES, FREE, Estimate, find_estimates, largest_micro_batch
from dvae.memory import Sizes, check_network, find_sizes
from dvae.notes import amount
from dvae.recipe import load_config
from dvae.sources import Sources, find_held_out, find_sources


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dvae.plan", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, help="a TOML file, as in configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as train.steps=100")
    parser.add_argument("--world-size", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="of a machine (default 8)")
    parser.add_argument("--device", choices=DEVICES, default="h100", help="default h100")
    given = parser.parse_intermixed_args(arguments)
    world_size, each = given.world_size, given.gpus_per_node
    for key, value in (("world-size", world_size), ("gpus-per-node", each)):
        if value < 1:
            parser.error(f"--{key}={value} must be at least 1")
    if world_size > each and world_size % each:
        parser.error(f"--world-size={world_size} must be a multiple of --gpus-per-node={each}")
    return exit_code_of(
        lambda: report(
            load_config(given.recipe, given.overrides),
            world_size,
            max(1, world_size // each),
            given.device,
        )
    )


def report(config: Config, world_size: int, machines: int, device: str) -> None:
    """Print the plan of a run on `machines` with as many processes each.

    Raises:
        UserError: the run would be refused for its recipe, shards or processes.
    """
    sources = find_sources(config, world_size)
    check_network(config, world_size)
    held_out = sum(int(split.counts.sum()) for split in find_held_out(config))
    rows = [
        *data_rows(sources),
        ("validation", f"{held_out:,} pictures"),
        *step_rows(config, sources.order, world_size),
        *epoch_rows(sources, world_size, machines),
        *memory_rows(config, world_size, machines, device),
    ]
    for name, text in rows:
        sys.stdout.write(f"{name:<22} {text}\n")


def data_rows(sources: Sources) -> list[tuple[str, str]]:
    """What there is to train on, one row a folder."""
    rows = []
    shares = sources.order.quotas.tolist() if isinstance(sources.order, Mixture) else []
    for number, split in enumerate(sources.splits):
        size = int(split.shards.sizes.sum())
        text = f"{int(split.counts.sum()):,} pictures, {len(split.shards):,} shards, {amount(size)}"
        if shares:
            text += f", {shares[number]:,} of every {sum(shares):,} drawn"
        rows.append((split.store.shown, text))
    return rows


def step_rows(config: Config, order: Order | Mixture, world_size: int) -> list[tuple[str, str]]:
    """Steps, epochs and each process's share of a batch."""
    batch, steps = order.batch_size, config.train.steps
    each = batch // world_size
    waits = f", {order.samples % batch:,} pictures wait" if isinstance(order, Order) else ""
    micro = config.train.micro_batch(world_size)
    return [
        ("steps", f"{steps:,} of {batch:,} pictures, {steps / order.steps_per_epoch:.4g} epochs"),
        ("epoch", f"{order.steps_per_epoch:,} steps{waits}"),
        ("processes", f"{world_size:,}, each {each:,} pictures a step in {each // micro:,} parts"),
    ]


def epoch_rows(sources: Sources, world_size: int, machines: int) -> list[tuple[str, str]]:
    """What each process and machine reads in an epoch."""
    order = sources.order
    sizes = [split.shards.sizes for split in sources.splits]
    traffic = process_traffic(order, sizes, world_size)
    mean, most = traffic.bytes.mean(), traffic.bytes.max()
    pictures = order.steps_per_epoch * order.batch_size // world_size
    each = f"{pictures:,} pictures, {amount(mean)}, {amount(most)} at most"
    total = amount(sum(float(size.sum()) for size in sizes))
    held = sources.windows(world_size)
    text = f"{amount(max(MAX_BYTES, held))} a process of remote pictures, at most"
    return [
        ("a process, an epoch", f"{each}, in {traffic.requests.max():,.0f} reads"),
        ("a machine, an epoch", f"{amount(mean * world_size / machines)}, {machines:,} machines"),
        ("all, an epoch", f"{amount(traffic.bytes.sum())} of {total}"),
        *([("held in memory", text)] if held else []),
    ]


def memory_rows(
    config: Config, world_size: int, machines: int, device: str
) -> list[tuple[str, str]]:
    """What each engine holds and sends, and the first of them that fits the device."""
    sizes = find_sizes(config)
    estimates = find_estimates(config, sizes, world_size, machines)
    columns = [*estimates[0].parts, "all", "sent a step"]
    rows = [("memory (estimate)", " ".join(f"{name:>11}" for name in columns))]
    for one in estimates:
        cells = [*one.parts.values(), one.total, one.sent]
        text = one.refusal or " ".join(f"{amount(cell):>11}" for cell in cells)
        rows.append((one.engine, text))
    summed = f"{amount(sizes.gradients + sizes.rival)} of gradients, under DDP"
    return [
        *([("all-reduce, a step", summed)] if world_size > 1 else []),
        *rows,
        (f"fits {device}", fit(config, sizes, estimates, world_size, device)),
    ]


def fit(
    config: Config, sizes: Sizes, estimates: list[Estimate], world_size: int, device: str
) -> str:
    """The simplest engine that fits a device, or what would make one fit."""
    memory = DEVICES[device] * (1 - FREE)
    usable = [one for one in estimates if not one.refusal]
    for one in usable:
        if one.total <= memory:
            return f"{one.engine}, launch/{one.file}: {amount(one.total)} of {amount(memory)}"
    share = config.train.global_batch_size // world_size
    for one in usable:
        micro = largest_micro_batch(sizes, share, one.total - one.parts["activations"], memory)
        if micro:
            return (
                f"none as it is, {amount(memory)}; {one.engine}, launch/{one.file}, with "
                f"train.micro_batch_size={micro}"
            )
    return f"none, {amount(memory)}: not even one picture at a time"


if __name__ == "__main__":
    sys.exit(main())
