"""From a recipe's `data` part to this process's batches."""

from dataclasses import dataclass

import torch

from dvae.config import Config
from dvae.data.batches import (
    Loader,
    Pictures,
    first_batch,
)
from dvae.data.plans import evaluation_plan, training_plan
from dvae.data.reader import Reader
from dvae.sources import Sources, find_held_out, find_sources


@dataclass(frozen=True)
class Streams:
    """The training and validation pictures of a run."""

    config: Config
    sources: Sources  # of training
    pictures: Pictures  # of training: cropped and flipped
    held_out: Pictures  # of validation: the centre of each

    @property
    def held_out_count(self) -> int:
        """The validation pictures that are measured on."""
        count = len(self.held_out.reader)
        return min(count, self.config.eval.images or count)

    def training(self, start: int, rank: int, world_size: int, first_epoch: int = 0) -> Loader:
        """This process's share of the global batches from the step `start` on, without end.

        Steps are counted from the beginning of `first_epoch`.
        """
        data = self.config.data
        plan = training_plan(self.sources.order, start, rank, world_size, first_epoch)
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
    sources = find_sources(config, world_size)
    pictures = Pictures(
        Reader(*sources.splits, verify=data.verify),
        config.image_size,
        data.crop_min,
        data.flip,
        random_place=True,
        seed=train.seed,
        max_pixels=data.max_pixels,
    )
    held_out = Pictures(
        Reader(*find_held_out(config), verify=data.verify),
        config.image_size,
        max_pixels=data.max_pixels,
    )
    return Streams(config, sources, pictures, held_out)
