"""One measurement in a process of its own: prints a line of JSON.

python loading_worker.py LOADER DATA SIZE WORKERS SECONDS
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from loading_job import BATCH, Job

WARM = 8  # batches before the clock starts

# Where a loader's function is, and what is imported before the clock for its first batch starts.
LOADERS = {
    "ours": ("loading_ours", []),
    "ours_stored": ("loading_ours", []),
    "bare": ("loading_ours", []),
    "original": ("loading_peers", ["torchvision.transforms.v2", "PIL.Image"]),
    "webdataset_stock": ("loading_peers", ["torchvision.transforms.v2", "webdataset", "PIL.Image"]),
    "webdataset_turbo": ("loading_peers", ["webdataset"]),
    "streaming": ("loading_peers", ["streaming"]),
    "litdata": ("loading_peers", ["litdata"]),
    "grain": ("loading_peers", ["grain", "loading_ours"]),
    "webdataset_ours": ("loading_peers", ["webdataset"]),
    "streaming_ours": ("loading_peers", ["streaming"]),
    "litdata_ours": ("loading_peers", ["litdata"]),
    "grain_ours": ("loading_peers", ["grain", "loading_ours"]),
    "dali": ("loading_peers", ["nvidia.dali.fn"]),
    "ffcv": ("loading_peers", ["ffcv.loader", "ffcv.fields.rgb_image", "ffcv.transforms"]),
}


def cpu_seconds() -> float:
    """Of this process and all that it started, the ended ones too."""
    this = psutil.Process()
    times = [process.cpu_times() for process in [this, *this.children(recursive=True)]]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def memory() -> float:
    """MB of this process and all that it started; what they share counts once."""
    this = psutil.Process()
    processes = [this, *this.children(recursive=True)]
    return sum(process.memory_full_info().pss for process in processes) / 2**20


def measure(start: Any, job: Job, seconds: float) -> dict[str, float]:
    """Rates over so many seconds, after the first batches."""
    before = memory()
    began = time.perf_counter()
    batches: Iterator[Any] = iter(start(job))
    next(batches)
    first = time.perf_counter() - began
    for _ in range(WARM):
        next(batches)
    began, cpu, images = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - began < seconds:
        batch = next(batches)
        if len(batch) != BATCH:
            raise SystemExit(f"{job.loader} gave a batch of {len(batch)}")
        images += len(batch)
    wall, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    return {
        "images_per_second": images / wall,
        "cpu_microseconds": cpu / images * 1e6,
        "first_batch_ms": first * 1e3,
        "mb": memory() - before,
    }


def main() -> None:
    torch.set_num_threads(1)
    name, data, size, workers, seconds = sys.argv[1:]
    job = Job(name, Path(data), int(size), int(workers))
    module, imports = LOADERS[name]
    functions = importlib.import_module(module)
    if module == "loading_peers":
        functions.define_operators()
    for needed in imports:
        importlib.import_module(needed)
    sys.stdout.write(
        "\n" + json.dumps(measure(getattr(functions, name), job, float(seconds))) + "\n"
    )
    sys.stdout.flush()
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(0)  # loaders that don't end by themselves must not hold up the next


if __name__ == "__main__":
    main()
