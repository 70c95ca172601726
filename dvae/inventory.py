"""The checkpoints of a run from outside: `dvae checkpoints RUN` lists, verifies, prunes and exports."""

import sys
from dataclasses import dataclass
from pathlib import Path

from dvae.checkpoint import Checkpoints, read_state
from dvae.config import Config
from dvae.errors import CheckpointError, UserError
from dvae.files import damage, locked
from dvae.find import load
from dvae.recipe import parse_config, read_toml
from dvae.weights import export


@dataclass(frozen=True)
class Found:
    """A checkpoint, and what is wrong with it."""

    step: int
    path: Path
    wrong: str | None
    bytes: int


def report(run: Path, keep: int | None, keep_every: int | None, prune: bool) -> int:
    """Print a line for each checkpoint, prune if asked to; exit code 4 where one is damaged."""
    config = config_of(run)
    found = found_in(run)
    best = _best(found)
    whole = [entry for entry in found if not entry.wrong]
    for entry in found:
        notes = [entry.wrong and f"damaged: {entry.wrong}" or "whole"]
        notes += ["best"] * (entry.step == best) + ["last"] * (entry in whole[-1:])
        sys.stdout.write(f"{entry.path.name}  {entry.bytes / 1e6:9.1f} MB  {', '.join(notes)}\n")
    if prune:
        if not whole:
            raise CheckpointError(f"{run} has no whole checkpoint: nothing was pruned")
        checkpoints = Checkpoints(
            run / "checkpoints",
            config.train.keep if keep is None else keep,
            config.train.keep_every if keep_every is None else keep_every,
        )
        with locked(run):
            checkpoints.prune(read_state(whole[-1].path))
        left = set(checkpoints.names())
        gone = [entry for entry in found if entry.step not in left]
        freed = sum(entry.bytes for entry in gone) / 1e6
        sys.stdout.write(f"removed {len(gone)}, {freed:.1f} MB; damaged ones are left to you\n")
    return CheckpointError.exit_code if len(whole) < len(found) else 0


def export_checkpoint(run: Path, which: str, out: Path) -> None:
    """Write a checkpoint's weights as a weights folder: a step, `best` or `last`."""
    if out.exists():
        raise UserError(f"--out={out} exists: name a folder that doesn't")
    step = f"step-{int(which):08d}" if which.isdecimal() else which
    weights = load(str(run / "checkpoints" / step))
    export(out, weights.model, weights.about)
    sys.stdout.write(f"{out}\n")


def config_of(run: Path) -> Config:
    """The recipe that a run wrote down.

    Raises:
        UserError: the folder isn't a run.
    """
    path = run / "config.toml"
    if not path.is_file():
        raise UserError(f"{run} is not a run: it has no config.toml")
    return parse_config(read_toml(path), str(path))


def found_in(run: Path) -> list[Found]:
    """The checkpoints of a run in order, each verified."""
    names = Checkpoints(run / "checkpoints", 1).names()
    return [
        Found(step, path, damage(path), sum(p.stat().st_size for p in path.iterdir()))
        for step, path in names.items()
    ]


def _best(found: list[Found]) -> int | None:
    whole = [entry for entry in found if not entry.wrong]
    return read_state(whole[-1].path).best_step if whole else None
