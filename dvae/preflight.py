"""Before anything is built: do all processes run the same code on the same recipe and shards, and can they?

Each process opens the shards and looks at its machine; then all of them compare. What is wrong on any
ends all of them, with the same exit code and a line for each process that says where it is.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from dvae import __version__
from dvae.checkpoint import Checkpoints
from dvae.checks import check_disk, check_open_files, check_shared_memory, code_digest
from dvae.config import Config
from dvae.errors import UserError
from dvae.streams import Streams, open_streams
from dvae.world import processes_here

# What may differ from machine to machine; everything else changes batches, or when all must meet.
LOCAL = ("data.threads", "data.ahead", "data.cache_dir", "data.cache_bytes")
MOST_LINES = 20


@dataclass(frozen=True)
class Seen:
    """What a process found."""

    process: int
    host: str
    faults: tuple[tuple[int, str], ...]  # exit code and message
    facts: dict[str, Any]  # must be the same everywhere

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"process {self.process} on {self.host}"


def preflight(config: Config, accelerator: Accelerator) -> Streams:
    """Open the shards, and begin only where every process can, with the same of everything.

    Raises:
        UserError: on all processes; the first one's message has a line for each that is at fault.
    """
    faults: list[tuple[int, str]] = []
    streams = _found(faults, lambda: open_streams(config, accelerator.num_processes))
    _found(faults, lambda: check_open_files(accelerator.num_processes))
    if accelerator.device.type == "cuda":
        _found(faults, lambda: check_shared_memory(processes_here()))
    if accelerator.is_main_process:  # which writes
        _found(faults, lambda: check_disk(config))
    agree(accelerator, faults, _facts(config, streams))
    assert streams
    for line in streams.lacks if accelerator.is_main_process else []:
        tqdm.write(f"{line}: their samples are bad ones (data.bad_shards=skip)")
    return streams


def agree(accelerator: Accelerator, faults: list[tuple[int, str]], facts: dict[str, Any]) -> None:
    """Go on only where no process has a fault and all have the same facts; all processes call this.

    Args:
        accelerator: of the run.
        faults: of this process: exit codes and messages.
        facts: of this process, by the name that messages give them.

    Raises:
        UserError: on all processes; the first one's message has a line for each that is at fault.
    """
    own = Seen(accelerator.process_index, os.uname().nodename, tuple(faults), facts)
    code, lines = compare(gather_object([own]))
    if lines:
        told = "\n".join(lines) if own.process == 0 else "process 0 tells why nothing was trained"
        error = UserError(told)
        error.exit_code = code
        raise error


def compare(everyone: list[Seen]) -> tuple[int, list[str]]:
    """The exit code, and what to tell: a line for each fault of each process; none where all agree.

    Args:
        everyone: what all processes found, in order.
    """
    codes, lines = [], []
    for fault in dict.fromkeys(fault for seen in everyone for fault in seen.faults):
        at = [seen for seen in everyone if fault in seen.faults]
        codes.append(fault[0])
        everywhere = len(at) == len(everyone)
        lines += [fault[1]] if everywhere else [f"{seen.place}: {fault[1]}" for seen in at]
    first = everyone[0]
    for seen in everyone[1:]:
        for name in sorted(first.facts.keys() & seen.facts.keys()):
            there, here = first.facts[name], seen.facts[name]
            if here != there:
                codes.append(UserError.exit_code)
                lines.append(f"{seen.place}: {name} is {here!r}, and {there!r} on {first.place}")
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [f"and {len(lines) - MOST_LINES} more"]
    return (codes[0] if codes else 0), lines


def _found(faults: list[tuple[int, str]], look: Callable[[], Any]) -> Any:
    """What `look` gives; its error is noted instead."""
    try:
        return look()
    except UserError as error:
        faults.append((error.exit_code, str(error)))
    except OSError as error:
        faults.append((UserError.exit_code, f"{error.filename}: {error.strerror}"))
    return None


def _facts(config: Config, streams: Streams | None) -> dict[str, Any]:
    """What must be the same everywhere, by the name that messages give it."""
    names = Checkpoints(config.folder / "checkpoints", 1).names()
    facts = {
        "dvae's code": f"{__version__} {code_digest()[:12]}",
        "torch": torch.__version__,
        "the newest checkpoint": max(names, default=None),
    }
    if streams:  # else there is a fault to tell already, and nothing to compare
        held_out = [split.digest for split in streams.held_out.reader.splits]
        facts["the training shards' digest"] = streams.sources.digest[:16]
        facts["the validation shards' digest"] = ", ".join(digest[:16] for digest in held_out)
    recipe = _dotted(config.model_dump(mode="json"), "")
    return facts | {name: value for name, value in recipe.items() if name not in LOCAL}


def _dotted(tree: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A recipe's values by their dotted keys."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, dict)
        found |= _dotted(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found
