"""What a run would take, before it is launched: `python -m dvae.plan RECIPE --world-size W`.

Reads the recipe and the manifests of its shards, starts no process and opens no shard.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from dvae.config import Config
from dvae.data.mixture import Mixture
from dvae.data.order import Order
from dvae.data.traffic import process_traffic
from dvae.errors import exit_code_of
from dvae.recipe import load_config
from dvae.sources import Sources, find_held_out, find_sources

UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dvae.plan", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, help="a TOML file, as in configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as train.steps=100")
    parser.add_argument("--world-size", type=int, default=1, help="processes (default 1)")
    given = parser.parse_intermixed_args(arguments)
    if given.world_size < 1:
        parser.error(f"--world-size={given.world_size} must be at least 1")
    return exit_code_of(
        lambda: report(load_config(given.recipe, given.overrides), given.world_size)
    )


def report(config: Config, world_size: int) -> None:
    """Print the plan of a run.

    Raises:
        UserError: the run would be refused for its recipe, shards or processes.
    """
    sources = find_sources(config, world_size)
    held_out = sum(int(split.counts.sum()) for split in find_held_out(config))
    rows = [
        *data_rows(sources),
        ("validation", f"{held_out:,} pictures"),
        *step_rows(config, sources.order, world_size),
        *epoch_rows(sources, world_size),
    ]
    for name, text in rows:
        sys.stdout.write(f"{name:<22} {text}\n")


def data_rows(sources: Sources) -> list[tuple[str, str]]:
    """What there is to train on, one row a folder."""
    rows = []
    shares = sources.order.quotas.tolist() if isinstance(sources.order, Mixture) else []
    for number, split in enumerate(sources.splits):
        size = sum(shard.bytes for shard in split.shards)
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
    micro = config.train.micro_batch_size or each
    return [
        ("steps", f"{steps:,} of {batch:,} pictures, {steps / order.steps_per_epoch:.4g} epochs"),
        ("epoch", f"{order.steps_per_epoch:,} steps{waits}"),
        ("processes", f"{world_size:,}, each {each:,} pictures a step in {each // micro:,} parts"),
    ]


def epoch_rows(sources: Sources, world_size: int) -> list[tuple[str, str]]:
    """What each process reads in an epoch."""
    order = sources.order
    sizes = [np.array([shard.bytes for shard in split.shards]) for split in sources.splits]
    traffic = process_traffic(order, sizes, world_size)
    mean, most = traffic.bytes.mean(), traffic.bytes.max()
    pictures = order.steps_per_epoch * order.batch_size // world_size
    each = f"{pictures:,} pictures, {amount(mean)}, {amount(most)} at most"
    total = amount(sum(float(size.sum()) for size in sizes))
    return [
        ("a process, an epoch", f"{each}, in {traffic.requests.max():,.0f} reads"),
        ("all, an epoch", f"{amount(traffic.bytes.sum())} of {total}"),
    ]


def amount(count: float) -> str:
    """Bytes for people: 1.2 GB."""
    power = 0
    while count >= 999.5 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {UNITS[power]}"


if __name__ == "__main__":
    sys.exit(main())
