"""Two processes make, use and end a process group, again and again, as a run does at its end.

Python's threads don't take turns here: what waits for Python's lock waits until this thread sleeps, as
now and then on a busy machine. Without `keep_group` the freeing of DDP's reducer hangs.
"""

import os
import sys
import tempfile

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from dvae.world import keep_group

ROUNDS = 20


def end_one(store: str) -> None:
    """Make a group, average a gradient, meet, and end the group before the network is freed."""
    rank = int(not child)
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    network = DistributedDataParallel(torch.nn.Linear(4, 4))
    network(torch.randn(2, 4)).sum().backward()
    distributed.barrier()
    keep_group()
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.setswitchinterval(1000)
    folder = tempfile.TemporaryDirectory()
    child = os.fork()
    for number in range(ROUNDS):
        end_one(f"{folder.name}/{number}")
    if not child:
        os._exit(0)
    code = os.waitpid(child, 0)[1]
    folder.cleanup()
    sys.exit(code)
