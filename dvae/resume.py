"""Going on with a run: its newest whole checkpoint, and the data that it stands in.

The state of the data is a step (design contract 1): how many global batches were drawn since the
data began, and the number of the epoch that began then.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
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
from dvae.data.manifest import Shard, Split
from dvae.data.shard_list import write_shards
from dvae.errors import CheckpointError, DataError
from dvae.sources import Sources, digest_of
from dvae.tensors import Tensors, read_tensors

DIGITS = 16  # of a digest, hexadecimal, in a checkpoint and the names of files beside it


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


def settle_data(
    state: State, sources: Sources, held_out: Sequence[Split], folder: Path, accept_new: bool
) -> bool:
    """Check that the data are still those that the run began with, wherever they lie now.

    Changed ones begin a new epoch; with other validation data, or such as an earlier version's
    checkpoint doesn't name, the best loss is looked for anew.

    Args:
        state: of the run; what it says of the data is brought up to date.
        sources: what there is to train on now.
        held_out: what there is to measure on now.
        folder: of the checkpoints.
        accept_new: go on with data that changed.

    Returns:
        Whether they changed.

    Raises:
        DataError: the data changed, and that isn't accepted.
    """
    digest, of_held_out = sources.digest, digest_of(held_out)
    is_new = not digest.startswith(state.data)
    is_measured_anew = not of_held_out.startswith(state.held_out)
    is_changed = is_new or is_measured_anew
    if is_changed and not accept_new:
        changed, effects = [], []
        if is_new:
            changed.append(f"the data {_changes(state.data, sources.splits, folder)}")
            effects.append("a new epoch begins")
        if is_measured_anew:
            changed.append(f"the validation data {_changes(state.held_out, held_out, folder)}")
            effects.append("the best loss is looked for anew")
        raise DataError(
            f"{'; '.join(changed)}: bring the shards back, choose another run.name, or go on with "
            f"the changed ones by --accept-new-data: {' and '.join(effects)}"
        )
    if is_new:
        state.earlier = [*state.earlier, state.step - state.first_step]
        state.first_epoch, state.first_step = state.epochs, state.step
    if is_measured_anew or not state.held_out:
        state.best_loss, state.metrics, state.measured = None, {}, None
    state.data, state.held_out = digest[:DIGITS], of_held_out[:DIGITS]
    return is_changed


def note_data(state: State, sources: Sources, held_out: Sequence[Split], folder: Path) -> None:
    """Bring the state of the data up to date, and name the shards beside the checkpoints."""
    state.epochs = state.first_epoch + sources.order.epochs_begun(state.step - state.first_step)
    folder.mkdir(exist_ok=True)
    for digest, splits in ((state.data, sources.splits), (state.held_out, held_out)):
        path = _path(digest, folder)
        if not path.is_file():
            write_shards(path, [split.shards for split in splits])


def _path(digest: str, folder: Path) -> Path:
    return folder / f"data-{digest[:DIGITS]}.json"


def _changes(digest: str, splits: Sequence[Split], folder: Path) -> str:
    path = _path(digest, folder)
    try:
        before = [Shard(**shard) for shard in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError, RecursionError):
        return f"of this run changed: {path}, which named the earlier shards, can't be read"
    now = [shard for split in splits for shard in split.shards]
    return f"of this run changed: {'; '.join(data_differences(before, now))}"
