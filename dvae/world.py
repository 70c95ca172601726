"""How the processes of a launch find each other, also where a launcher starts them again."""

import os
from datetime import timedelta

import torch
from torch import distributed

_kept: list[distributed.ProcessGroup | None] = []


def join_again(timeout: float) -> None:
    """Make the process group of a launch that was started again; the first one is Accelerate's to make.

    The launcher's store outlives the processes it starts, and what the dead ones wrote there (their
    addresses) is read by those that follow: PyTorch 2.13 prefixes no key. So the keys of each attempt get
    a prefix here.

    Args:
        timeout: seconds that a collective may take.
    """
    if not _keeps_store() or _attempt() == "0":
        return
    on_cpu = os.environ.get("ACCELERATE_USE_CPU") == "true" or not torch.cuda.is_available()
    distributed.init_process_group(
        "gloo" if on_cpu else "nccl",
        store=shared_store("world", timeout),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timedelta(seconds=timeout),
    )


def keep_group() -> None:
    """Keep the process group while Python lives; to be called before it's destroyed.

    DDP's reducer would else be the last that holds it, and frees it with Python's lock held: that waits
    for the group's thread, which wants the lock to free the tensors of the last collective, so that now
    and then a finished run hung on a busy machine (PyTorch 2.13, gloo). Python's own reference to a
    group lets go of the lock first.
    """
    if distributed.is_initialized():
        _kept.append(distributed.group.WORLD)


def processes_here() -> int:
    """How many of the launch's processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def shared_store(name: str, timeout: float) -> distributed.Store:
    """A connection of its own to the store that all processes of this attempt share.

    Args:
        name: of what is kept in it.
        timeout: seconds to wait for the store, and for keys.
    """
    store = distributed.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout),
    )
    return distributed.PrefixStore(f"dvae/{_attempt() if _keeps_store() else 0}/{name}", store)


def _keeps_store() -> bool:
    """Whether the launcher keeps the store, rather than the first process."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _attempt() -> str:
    """The number of times that the launcher has started its processes again."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
