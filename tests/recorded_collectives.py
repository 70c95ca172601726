"""Train as `dvae.train` does, and write down every collective before it begins.

DVAE_RECORD names a folder, where each process writes a line for each: the function of dvae that led to it,
the operation, shapes and types of its tensors, and its group. DVAE_ENGINE: see engines_on_cpu. DVAE_ODD=STEP
lets one process find its gradient odd there, DVAE_STOP=STEP sends another one SIGTERM, DVAE_BUG=save lets
the first one save alone, DVAE_BUG=drift gives the second one other weights and another gradient.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import dvae.train

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.engines_on_cpu import put_in_place

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
OURS = str(Path(dvae.train.__file__).parent)


class Collectives(TorchDispatchMode):
    """Notes what torch dispatches to a process group: DDP's own in C++ pass here too."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = path.open("w", buffering=1)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it will ask again, for its parts
        local = any(name in func.__name__ for name in ("wait", "wrap"))
        if "c10d" in func.namespace and not local:
            leaves = tree_leaves((args, kwargs))
            tensors = [[str(t.dtype), *t.shape] for t in leaves if isinstance(t, Tensor)]
            self.file.write(json.dumps([caller(), str(func), tensors, groups(leaves)]) + "\n")
        return func(*args, **(kwargs or {}))


def caller() -> str:
    """The innermost function of dvae that is running."""
    frame = sys._getframe()
    while frame and not frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}" if frame else "?"


def groups(leaves: list) -> list:
    """The ranks, or the name, of the process group among an operation's arguments."""
    found = [leaf for leaf in leaves if isinstance(leaf, str)]
    for leaf in leaves:
        if isinstance(leaf, torch.ScriptObject) and "ProcessGroup" in str(leaf._type()):
            found.append(distributed.get_process_group_ranks(distributed.ProcessGroup.unbox(leaf)))
    return found


def put_faults() -> None:
    """One process's gradient is odd, another one is asked to stop, or the first one saves alone."""
    odd, stop = (int(os.environ.get(name, -1)) for name in ("DVAE_ODD", "DVAE_STOP"))
    is_odd, save = dvae.train.is_odd, dvae.train.save

    def faulty(run, grad_norm):
        if run.state.step == stop and RANK == WORLD - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return is_odd(run, grad_norm) or (run.state.step == odd and RANK == 1)

    dvae.train.is_odd = faulty
    if os.environ.get("DVAE_BUG") == "save":
        dvae.train.save = lambda run: RANK == 0 and save(run)
    if os.environ.get("DVAE_BUG") == "drift" and RANK == 1:
        dvae.train.set_up, dvae.train.find_gradients = drifting(
            dvae.train.set_up, dvae.train.find_gradients
        )


def drifting(set_up, find_gradients):
    """The same functions; afterwards one weight and one gradient are other than those of the others."""

    def set_up_otherwise(*arguments):
        run = set_up(*arguments)
        run.bare.to_mean.weight.data[0, 0] += 1e-6
        return run

    def find_otherwise(run, *arguments):
        sums = find_gradients(run, *arguments)
        run.bare.decoder_head[2].bias.grad[0] += 1e-6
        return sums

    return set_up_otherwise, find_otherwise


if __name__ == "__main__":
    put_in_place()
    put_faults()
    with Collectives(Path(os.environ["DVAE_RECORD"]) / f"rank-{RANK}.jsonl"):
        code = dvae.train.main()
    sys.exit(code)
