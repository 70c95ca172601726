"""Checkpoints: whole or absent, verified before an older one goes, no pickle.

    checkpoints/step-00000400/model.safetensors ema.safetensors optimizer.safetensors
                              state.json manifest.json

A folder gets its name only when everything in it is on the disk (design contract 3).
"""

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dvae import __version__
from dvae.errors import CheckpointError, NonFiniteError
from dvae.failpoint import failpoint
from dvae.files import TEMPORARY, damage, whole_folder
from dvae.optim import load_optimizer_tensors, optimizer_tensors
from dvae.tensors import mismatches, read_tensors, write_tensors

STATE = "state.json"
NETWORK, AVERAGE, OPTIMIZER = "model.safetensors", "ema.safetensors", "optimizer.safetensors"
RIVAL, RIVAL_OPTIMIZER = "discriminator.safetensors", "discriminator_optimizer.safetensors"
Learner = tuple[nn.Module, torch.optim.Optimizer]
NAME = re.compile(r"step-(\d{8,})")
Files = dict[str, dict[str, Tensor]]  # file name -> tensors


@dataclass
class Standing:
    """How the game against the discriminator stands (`dvae.adversarial`)."""

    steps: int = 0  # of the discriminator
    balance: float = 0.0  # of the gradients; 0: not measured yet
    loss: float = 0.0  # of the discriminator, a running mean
    real: float = 0.0  # running means of its logits
    fake: float = 0.0
    won: int = 0  # steps in a row at which it had won
    skipped: int = 0  # its steps that were not finite


@dataclass
class State:
    """The counters of a run. With the tensors they are all of it: every draw is keyed. 1 KB at most."""

    step: int = 0  # finished optimizer steps; with the recipe, also the state of the data
    mean_error: float | None = None  # running, of one number of a picture: the optimal scale
    best_step: int | None = None
    best_loss: float | None = None  # nats per image, on the validation split
    steering: float = 1.0  # what beta is multiplied by, to hold the rate
    bad_samples: int = 0  # in all processes
    data: str = ""  # the digest of the shards that are trained on, or how it begins
    held_out: str = ""  # the same of those that are measured on
    earlier: list[int] = field(default_factory=list)  # steps taken with each of the data before
    first_step: int = 0  # the step at which these data began
    first_epoch: int = 0  # the number of the epoch that began then
    epochs: int = 0  # that have begun
    loss_scale: dict[str, Any] | None = None  # of fp16
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation, rounded
    measured: int | None = None  # the step of that evaluation
    losses: list[float] = field(default_factory=list)  # of the last steps, nats per image, rounded
    norms: list[float] = field(default_factory=list)  # of their gradients
    rolled_back: int | None = None  # to the checkpoint of this step, last
    standing: Standing = field(default_factory=Standing)
    good_step: int | None = None  # the last checkpoint at which the discriminator hadn't won
    version: str = __version__
    torch: str = torch.__version__


class Checkpoints:
    """The checkpoints of one run: `save`, `newest`, and keeping the last K, the best and every Nth."""

    def __init__(self, folder: Path, keep: int, keep_every: int = 0) -> None:
        self.folder = folder
        self.keep = keep
        self.keep_every = keep_every  # steps; 0: no others are kept
        self.last: int | None = None  # the step of what was saved or restored last
        self._whole: dict[int, bool] = {}

    def names(self) -> dict[int, Path]:
        """Step -> folder of everything that has a checkpoint's name, in order."""
        found = {}
        for path in self.folder.glob("step-*"):
            match = NAME.fullmatch(path.name)
            if match and path.is_dir() and not path.is_symlink():
                found[int(match[1])] = path
        return dict(sorted(found.items()))

    def save(self, state: State, files: Files) -> Path:
        """Write a checkpoint, read it again, then remove those that needn't be kept.

        Args:
            state: the counters.
            files: the tensors of each file, whole and by the network's names.

        Raises:
            NonFiniteError: there is a number in it that isn't finite; nothing was written.
            CheckpointError: what was read back isn't what was written.
            OSError: it can't be written; those that were there still are.
        """
        _check_finite(state, files)
        path = self.folder / f"step-{state.step:08d}"
        with whole_folder(path) as temporary:
            for name, tensors in files.items():
                write_tensors(tensors, temporary / name)
                failpoint(name)
            (temporary / STATE).write_text(json.dumps(asdict(state), separators=(",", ":")) + "\n")
            failpoint(STATE)
        wrong = damage(path)
        if wrong:
            raise CheckpointError(
                f"{path} was written and reads back wrong: {wrong}: check the disk"
            )
        failpoint("verified")
        self.last = state.step
        self._whole[state.step] = True
        self.prune(state)
        return path

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that is whole, and a line for each damaged one that was passed over."""
        passed: list[str] = []
        for path in reversed(self.names().values()):
            wrong = damage(path)
            if wrong is None:
                return path, passed
            passed.append(f"checkpoint {path.name} is damaged: {wrong}")
        return None, passed

    def prune(self, state: State) -> None:
        """Remove all but the last K whole ones, the best and every Nth up to a state's step."""
        # Later ones are damaged, or the run would have gone on from them: they don't count.
        found = {step: path for step, path in self.names().items() if step <= state.step}
        last: list[int] = []
        for step in reversed(found):
            if len(last) < self.keep and self._is_whole(step, found[step]):
                last.append(step)
        kept = {*last, state.best_step, state.good_step}
        if self.keep_every:
            kept |= {step for step in found if step % self.keep_every == 0}
        for step, path in found.items():
            if step not in kept and self._is_whole(step, path):
                _remove(path)

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints later than a step."""
        for found, path in self.names().items():
            if found > step:
                _remove(path)

    def _is_whole(self, step: int, path: Path) -> bool:
        """Whether a checkpoint was whole when this process first looked."""
        if step not in self._whole:
            self._whole[step] = damage(path) is None
        return self._whole[step]


def _remove(path: Path) -> None:
    doomed = path.with_name(f"{TEMPORARY}{path.name}")
    path.rename(doomed)  # never half a checkpoint under its name
    failpoint("doomed")
    shutil.rmtree(doomed, ignore_errors=True)
    failpoint("pruned")


def on_host(files: Files) -> Files:
    """A copy of everything in host memory: the network goes on changing while it is written."""
    return {
        file: {name: _host_copy(tensor) for name, tensor in tensors.items()}
        for file, tensors in files.items()
    }


def _host_copy(tensor: Tensor) -> Tensor:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)  # contiguous, whatever the layout was
    return copy.copy_(tensor.detach())


def read_network(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a checkpoint's file that are a whole network's.

    Raises:
        CheckpointError: they are another network's.
    """
    tensors = read_tensors(path)
    problems = mismatches(tensors, model.state_dict())
    if problems:
        raise CheckpointError(f"{path} is of another network: {problems}")
    return tensors


def rival_files(rival: Learner) -> Files:
    """What a checkpoint holds of the discriminator, which every process has whole."""
    return {RIVAL: rival[0].state_dict(), RIVAL_OPTIMIZER: optimizer_tensors(*rival)}


def restore_rival(path: Path, rival: Learner) -> None:
    """Load the discriminator and its optimizer from a checkpoint.

    Raises:
        CheckpointError: it holds another one, or none.
    """
    rival[0].load_state_dict(read_network(path / RIVAL, rival[0]))
    load_optimizer_tensors(*rival, read_tensors(path / RIVAL_OPTIMIZER))


def read_state(path: Path) -> State:
    """The counters of a checkpoint.

    Raises:
        CheckpointError: they are missing, or not of this version.
    """
    try:
        value = json.loads((path / STATE).read_text())
        return State(**value | {"standing": Standing(**value.get("standing", {}))})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path / STATE} is not a state of this version: {error}") from None


def _check_finite(state: State, files: Files) -> None:
    for file, tensors in files.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise NonFiniteError(
                    f"{name} of {file} is not finite after step {state.step}: it isn't saved, and the "
                    "last checkpoint is whole: lower optim.learning_rate under another run.name"
                )
