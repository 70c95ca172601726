"""What a machine must have before a run begins: files that it may open, room on the disk, shared memory.

`dvae.preflight` asks on every process of a run, `dvae doctor` on this machine alone.
"""

import hashlib
import resource
import shutil
from pathlib import Path

from dvae.config import Config
from dvae.errors import ResourceError, UserError
from dvae.memory import checkpoint_bytes

OPEN_FILES = 128  # of a process itself: libraries, the terminal, TensorBoard, a checkpoint
SHARED_MEMORY = Path("/dev/shm")
SHARED_BYTES = 32 << 20  # that NCCL takes there for each process of a machine


def code_digest() -> str:
    """SHA-256 of this package's sources, as 64 hexadecimal digits."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def check_open_files(world_size: int) -> None:
    """Refuse a limit on open files that a process of so many would run into.

    Raises:
        UserError: naming the limit and what is needed.
    """
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = OPEN_FILES + world_size  # a connection to each of the others
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        raise UserError(
            f"the limit of {allowed} open files is below the {needed} that a process of {world_size} "
            f"needs: raise it with ulimit -n {max(needed, 4096)}"
        )


def check_shared_memory(processes: int, folder: Path = SHARED_MEMORY) -> None:
    """Refuse too little shared memory for the processes of this machine to talk by, as containers have.

    Raises:
        ResourceError: naming what is free and what is needed.
    """
    needed = processes * SHARED_BYTES
    free = free_bytes(folder) if folder.is_dir() else 0
    if processes > 1 and free < needed:
        raise ResourceError(
            f"{folder} has {free >> 20} MiB free, and {processes} processes of a machine talk through "
            f"{needed >> 20}: give the container more (docker run --shm-size=1g, or launch/kubernetes.yaml)"
        )


def check_disk(config: Config) -> None:
    """Refuse a disk without room for the checkpoints that a run keeps, one being written and the weights.

    Raises:
        ResourceError: naming what is free and what is needed.
    """
    one = checkpoint_bytes(config)
    there = len(list((config.folder / "checkpoints").glob("step-*")))
    every = config.train.keep_every
    kept = config.train.keep + 1 + (config.train.steps // every if every else 0)  # the best, too
    needed = one * (max(0, kept - there) + 1) + one // 2
    free = free_bytes(existing(config.folder))
    if free < needed:
        raise ResourceError(
            f"{config.folder} has {free / 1e6:.0f} MB free, and the {kept} checkpoints that the recipe "
            f"keeps, one more being written and the weights take {needed / 1e6:.0f}: make room, choose "
            "another run.dir, or lower train.keep (or raise train.keep_every)"
        )


def existing(folder: Path) -> Path:
    """A folder, or the innermost one above it that exists."""
    return folder if folder.exists() else existing(folder.resolve().parent)


def free_bytes(folder: Path) -> int:
    """Bytes that a user may still write there."""
    return shutil.disk_usage(folder).free
