"""Going on with a run: its newest whole checkpoint, and the data that it stands in.

The state of the data is a step (design contract 1): how many global batches were drawn since the
data began, and the number of the epoch that began then.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn
from tqdm import tqdm

from dvae.checkpoint import (
    AVERAGE,
    NETWORK,
    OPTIMIZER,
    Checkpoints,
    State,
    read_network,
    read_state,
)
from dvae.data.changes import data_differences
from dvae.data.manifest import Shard
from dvae.errors import CheckpointError, DataError
from dvae.files import write_json
from dvae.sources import Sources
from dvae.tensors import Tensors, read_tensors


@dataclass(frozen=True)
class Restored:
    """Where a run goes on: its counters and what its checkpoint holds; nothing of a new run."""

    state: State
    network: Tensors | None = None
    average: Tensors | None = None
    optimizer: Tensors | None = None
    path: Path | None = None


def restored(checkpoints: Checkpoints, model: nn.Module, averages: bool, is_main: bool) -> Restored:
    """Read the newest whole checkpoint of a run.

    Args:
        checkpoints: of the run.
        model: the network, whole; it isn't touched.
        averages: whether the run keeps an average.
        is_main: whether to tell of damaged checkpoints.

    Raises:
        CheckpointError: all are damaged, or the newest is another network's.
    """
    path, passed = checkpoints.newest()
    if is_main:
        for line in passed:
            tqdm.write(f"{line}; using {path.name if path else 'none'}")
    if path is None:
        if passed:
            raise CheckpointError("; ".join(passed) + ": none is left; choose another run.name")
        return Restored(State())
    network = read_network(path / NETWORK, model)
    average = read_network(path / AVERAGE, model) if averages else None
    state = read_state(path)
    checkpoints.last = state.step
    return Restored(state, network, average, read_tensors(path / OPTIMIZER), path)


def settle_data(state: State, sources: Sources, folder: Path, accept_new: bool) -> None:
    """Check that the data are still those that the run began with; changed ones begin a new epoch.

    Args:
        state: of the run; what it says of the data is brought up to date.
        sources: what there is to train on now.
        folder: of the checkpoints.
        accept_new: go on with data that changed.

    Raises:
        DataError: the data changed, and that isn't accepted.
    """
    if state.data not in ("", sources.digest):
        if not accept_new:
            raise DataError(
                f"the data of this run changed: {'; '.join(_changes(state, sources, folder))}: bring "
                "the shards back, choose another run.name, or begin a new epoch with the changed "
                "data by --accept-new-data"
            )
        state.first_epoch, state.first_step = state.epochs, state.step
    state.data = sources.digest


def note_data(state: State, sources: Sources, folder: Path) -> None:
    """Bring the state of the data up to date, and name the shards beside the checkpoints."""
    state.epochs = state.first_epoch + sources.order.epochs_begun(state.step - state.first_step)
    path = _path(state, folder)
    if path.is_file():
        return
    shards = [asdict(shard) for split in sources.splits for shard in split.shards]
    folder.mkdir(exist_ok=True)
    write_json(path, shards)


def _path(state: State, folder: Path) -> Path:
    return folder / f"data-{state.data[:16]}.json"


def _changes(state: State, sources: Sources, folder: Path) -> list[str]:
    path = _path(state, folder)
    try:
        before = [Shard(**shard) for shard in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError, RecursionError):
        return [f"{path}, which named the earlier shards, can't be read"]
    return data_differences(before, [shard for split in sources.splits for shard in split.shards])
