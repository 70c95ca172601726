"""From a recipe's `data` part to this process's batches."""

from dataclasses import dataclass

import torch

from dvae.config import Config
from dvae.data.ahead import evaluation_ahead, training_ahead
from dvae.data.batches import (
    Loader,
    Pictures,
    first_batch,
)
from dvae.data.cache import cached
from dvae.data.manifest import Split
from dvae.data.plans import evaluation_plan
from dvae.data.reader import Reader
from dvae.errors import DataError, UserError
from dvae.machine import available_memory
from dvae.notes import amount
from dvae.sources import Sources, find_held_out, find_sources
from dvae.world import processes_here


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
        reader, order = self.pictures.reader, self.sources.order
        plan = training_ahead(reader, order, start, rank, world_size, first_epoch)
        return Loader(plan, self.pictures, data.threads, data.ahead)

    def evaluation(self, rank: int, world_size: int, size: int) -> Loader:
        """This process's share of the validation pictures, each of them once, `size` at a time."""
        plan = evaluation_plan(self.held_out_count, world_size * size, rank, world_size)
        plan = evaluation_ahead(self.held_out.reader, plan)
        return Loader(plan, self.held_out, self.config.data.threads, self.config.data.ahead)

    @property
    def lacks(self) -> list[str]:
        """What `data.bad_shards = "skip"` lets pass: a line for each folder that lacks files."""
        return [*self.pictures.reader.lacks, *self.held_out.reader.lacks]

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
    check_window(config, sources.splits)
    check_memory(config, sources, world_size)
    pictures = Pictures(
        _reader(config, sources.splits),
        config.image_size,
        data.crop_min,
        data.flip,
        random_place=True,
        seed=train.seed,
        max_pixels=data.max_pixels,
    )
    held_out = Pictures(
        _reader(config, find_held_out(config)), config.image_size, max_pixels=data.max_pixels
    )
    return Streams(config, sources, pictures, held_out)


def check_window(config: Config, splits: tuple[Split, ...]) -> None:
    """Refuse to read remote shards a picture at a time."""
    data = config.data
    remote = [split.tars.shown for split in splits if split.tars.is_remote]
    if remote and not data.window and not data.cache_dir:
        raise UserError(
            f"data.window=0 permutes the whole data set, and {remote[0]} would be read a picture at "
            "a time: set data.window=32, or data.cache_dir to a folder that holds all of it"
        )


def check_memory(config: Config, sources: Sources, world_size: int) -> None:
    """Refuse remote windows that would take more than half of the memory that this machine has left."""
    free, held = available_memory(), processes_here() * sources.windows(world_size)
    if free is not None and held > free / 2:
        raise UserError(
            f"data.window={config.data.window} of remote shards would hold {amount(held)} of pictures "
            f"on a machine that has {amount(free)} of memory left: lower data.window, or "
            f"give data.sources weights of a smaller common denominator, as 1 and 2"
        )


def _reader(config: Config, splits: tuple[Split, ...]) -> Reader:
    data = config.data
    kept = [cached(split, data.cache_dir, data.cache_bytes) for split in splits]
    try:
        return Reader(*kept, verify=data.verify, skip=data.bad_shards == "skip")
    except DataError as error:
        remedy = "or take what is not there for bad samples by data.bad_shards=skip"
        raise DataError(f"{error}, {remedy}") from None
