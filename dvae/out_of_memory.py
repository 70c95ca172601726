"""Out of memory while training: what to do about it."""

import contextlib
from collections.abc import Iterator

import torch

from dvae.config import Config
from dvae.engine_checks import engine_asked_for
from dvae.errors import ResourceError, is_out_of_memory, words_of
from dvae.networks import build, has_batch_statistics


@contextlib.contextmanager
def telling_memory(config: Config, world_size: int) -> Iterator[None]:
    """Turn an error that says that memory is short into one message.

    Raises:
        ResourceError: of `short_of_memory`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise short_of_memory(config, world_size, words_of(error)) from None


def short_of_memory(config: Config, world_size: int, words: str, size: int = 0) -> ResourceError:
    """The batch, the resolution and the remedy.

    Args:
        config: of the run.
        world_size: processes of the run.
        words: the library's own.
        size: pictures that a process took at a time; 0: as the recipe says.
    """
    train, side = config.train, config.image_size
    size = size or train.micro_batch(world_size)
    return ResourceError(
        f"out of memory ({words}): each process took {size} pictures of {side}x{side} "
        f"through the network at a time (train.micro_batch_size={train.micro_batch_size}, "
        f"train.global_batch_size={train.global_batch_size}, processes: {world_size}): "
        f"{_remedy(config, size)}; what was saved before is whole"
    )


def next_smaller(size: int, share: int) -> int:
    """The largest part of a process's share that is at most half of `size`; 0: there's none."""
    return next((n for n in range(size // 2, 0, -1) if share % n == 0), 0)


def _remedy(config: Config, size: int) -> str:
    with torch.device("meta"):
        is_whole = has_batch_statistics(build(config.model))
    if is_whole:  # its batch can't be split
        return "take a smaller train.global_batch_size under another run.name"
    if size == 1:
        return "take model.gradient_checkpointing=true or a smaller network, under another run.name"
    is_auto = config.train.micro_batch_size == "auto"
    auto = "" if engine_asked_for() or is_auto else " (or auto, which finds a size)"
    smaller = next_smaller(size, size)
    return f"set train.micro_batch_size={smaller}{auto} and run the same command again"
