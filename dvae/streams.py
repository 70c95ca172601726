"""From a recipe's `data` part to this process's batches."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dvae.config import Config
from dvae.data.batches import (
    Loader,
    Pictures,
    first_batch,
)
from dvae.data.index import Split, find_split, read_splits
from dvae.data.order import Order
from dvae.data.plans import evaluation_plan, training_plan
from dvae.data.reader import Reader
from dvae.errors import UserError


@dataclass(frozen=True)
class Streams:
    """The training and validation pictures of a run."""

    config: Config
    split: Split  # of training
    order: Order
    pictures: Pictures  # of training: cropped and flipped
    held_out: Pictures  # of validation: the centre of each

    @property
    def held_out_count(self) -> int:
        """The validation pictures that are measured on."""
        count = len(self.held_out.reader)
        return min(count, self.config.eval.images or count)

    def training(self, start: int, rank: int, world_size: int) -> Loader:
        """This process's share of the global batches from the step `start` on, without end."""
        data = self.config.data
        plan = training_plan(self.order, start, rank, world_size)
        return Loader(plan, self.pictures, data.threads, data.ahead)

    def evaluation(self, rank: int, world_size: int) -> Loader:
        """This process's share of the validation pictures, each of them once."""
        share = self.config.train.global_batch_size // world_size
        batch = world_size * (self.config.train.micro_batch_size or share)
        plan = evaluation_plan(self.held_out_count, batch, rank, world_size)
        return Loader(plan, self.held_out, self.config.data.threads, self.config.data.ahead)

    def fixed(self, count: int) -> torch.Tensor:
        """The first validation pictures, (n, S, S, 3) uint8, as every grid shows them."""
        return first_batch(self.held_out, count).images


def open_streams(config: Config, world_size: int) -> Streams:
    """Find the shards and check that the batch fits them and the processes.

    Raises:
        UserError: shards that aren't there, or a batch that can't be shared out.
    """
    data, train = config.data, config.train
    split = find_split(Path(data.train), "train")
    order = Order(split.counts, train.seed, train.global_batch_size, data.window)
    check_batch(config, order.samples, world_size)
    pictures = Pictures(
        Reader(split, data.verify),
        config.image_size,
        data.crop_min,
        data.flip,
        random_place=True,
        seed=train.seed,
        max_pixels=data.max_pixels,
    )
    held_out = Pictures(
        Reader(_held_out(config), data.verify), config.image_size, max_pixels=data.max_pixels
    )
    return Streams(config, split, order, pictures, held_out)


def check_batch(config: Config, samples: int, world_size: int) -> None:
    """Refuse a global batch that the processes, micro-batches or pictures can't make."""
    batch, micro = config.train.global_batch_size, config.train.micro_batch_size
    if batch % world_size:
        raise UserError(
            f"train.global_batch_size={batch} can't be shared out over {world_size} processes: "
            f"it must be a multiple of their number"
        )
    each = batch // world_size
    if micro and each % micro:
        raise UserError(
            f"train.micro_batch_size={micro} doesn't divide a process's share of the batch, "
            f"{batch} / {world_size} = {each}"
        )
    if samples < batch:
        raise UserError(
            f"{config.data.train} holds {samples} pictures, fewer than "
            f"train.global_batch_size={batch}: pack more, or lower the batch"
        )


def _held_out(config: Config) -> Split:
    if config.data.val:
        return find_split(Path(config.data.val), "val")
    splits = read_splits(Path(config.data.train))
    if "val" not in splits or not splits["val"].counts.sum():
        raise UserError(
            f"{config.data.train} has no split 'val' to measure on: pack it with --val 0.05, or "
            "set data.val to another folder of shards"
        )
    return splits["val"]
