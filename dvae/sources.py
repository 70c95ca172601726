"""From a recipe's `data` part to the shards and the order of its samples; nothing is opened yet."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dvae.config import Config
from dvae.data.location import last_part, shown
from dvae.data.manifest import Split, find_split, read_splits
from dvae.data.mixture import Mixture
from dvae.data.order import Order
from dvae.data.traffic import open_windows
from dvae.errors import UserError


@dataclass(frozen=True)
class Sources:
    """What a run trains on, and in which order."""

    splits: tuple[Split, ...]  # sample ids run over them one after another
    order: Order | Mixture

    @property
    def digest(self) -> str:
        """Equal if and only if the data of all sources are."""
        return digest_of(self.splits)

    def windows(self, world_size: int) -> float:
        """Bytes of the remote windows that a process is inside of at a time, at most."""
        if not any(split.tars.is_remote for split in self.splits):
            return 0.0
        remote = [split.shards.sizes * split.tars.is_remote for split in self.splits]
        return float(open_windows(self.order, remote, world_size).max())

    def drawn(self, *steps: int) -> dict[str, int]:
        """Samples of each source in so many global batches; {} without `data.sources`.

        Args:
            steps: one number for each time that the order began anew, whatever the data then were.
        """
        if not isinstance(self.order, Mixture):
            return {}
        counts = np.sum([self.order.drawn(count) for count in steps], axis=0)
        return dict(zip(self.order.names, counts.tolist(), strict=True))


def digest_of(splits: Sequence[Split]) -> str:
    """A SHA-256 that is equal if and only if the data of all splits are, one after another."""
    digests = [split.digest for split in splits]
    return digests[0] if len(digests) == 1 else hashlib.sha256(str(digests).encode()).hexdigest()


def find_sources(config: Config, world_size: int) -> Sources:
    """Find the shards to train on, and check that the batch fits them and the processes.

    Raises:
        UserError: shards that aren't there, or a batch that can't be shared out.
    """
    data, train = config.data, config.train
    splits = tuple(find_split(path, "train") for path in data.paths)
    check_batch(config, sum(int(split.counts.sum()) for split in splits), world_size)
    batch = train.global_batch_size
    if data.train:
        return Sources(splits, Order(splits[0].counts, train.seed, batch, data.window))
    mixture = Mixture(
        source_names(data.paths),
        [split.counts for split in splits],
        [source.weight for source in data.sources],
        train.seed,
        batch,
        data.window,
    )
    return Sources(splits, mixture)


def find_held_out(config: Config) -> tuple[Split, ...]:
    """The shards to measure on: those of `data.val`, or the splits 'val' of what is trained on.

    Raises:
        UserError: a folder has none.
    """
    if config.data.val:
        return (find_split(config.data.val, "val"),)
    return tuple(_val_beside(path) for path in config.data.paths)


def check_batch(config: Config, samples: int, world_size: int) -> None:
    """Refuse a global batch that the processes, micro-batches or pictures can't make."""
    batch, micro = config.train.global_batch_size, config.train.micro_batch(world_size)
    if batch % world_size:
        raise UserError(
            f"train.global_batch_size={batch} can't be shared out over {world_size} processes: "
            f"it must be a multiple of their number"
        )
    each = batch // world_size
    if each % micro:
        raise UserError(
            f"train.micro_batch_size={micro} doesn't divide a process's share of the batch, "
            f"{batch} / {world_size} = {each}"
        )
    if samples < batch:
        raise UserError(
            f"{shown(', '.join(config.data.paths))} holds {samples} pictures, fewer than "
            f"train.global_batch_size={batch}: pack more, or lower the batch"
        )


def source_names(paths: tuple[str, ...]) -> tuple[str, ...]:
    """A short name for each folder: its last part, numbered where two are alike."""
    last = [last_part(path) for path in paths]
    return tuple(
        name if last.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(last)
    )


def _val_beside(path: str) -> Split:
    splits = read_splits(path)
    if "val" not in splits or not splits["val"].counts.sum():
        raise UserError(
            f"{shown(path)} has no split 'val' to measure on: pack it with --val 0.05, or "
            "set data.val to another folder of shards"
        )
    return splits["val"]
