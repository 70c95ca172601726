"""Does the plan of a huge data set cost next to nothing? Prints a table; exit code 1 past a limit.

    python tests/benchmarks/plan_scale.py

10^10 pictures in 10^6 shards of uneven counts and sizes, 1,024 processes of 64 pictures a step. Each
row of time and memory is measured in a fresh process, in its own seconds of CPU (an epoch's first
step: by the clock, in a plan that came to it). Bytes are worked out from the plan, with the
assumptions of dvae/data/traffic.py; the indexes that processes read count. The manifest of such
shards, 259 MB of JSON, is written to a temporary folder and read by a process of its own; no limit was
set for how long that takes.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from dvae.data.manifest import FORMAT, MANIFEST, find_split
from dvae.data.mixture import Mixture
from dvae.data.order import AHEAD, Order
from dvae.data.plans import training_plan
from dvae.data.traffic import process_traffic

SHARDS, SAMPLES, WORLD_SIZE, BATCH = 10**6, 10**10, 1024, 65_536
PICTURE_BYTES, SPREAD = 100_000, 0.3  # of a shard's mean picture, log-normal
STEPS = 400  # random steps that are timed
SETTINGS = ("window 64", "window 50", "full permutation", "3 sources, window 64")


def uneven(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(S,) counts and bytes of shards; one in a hundred is empty."""
    rng = np.random.default_rng(seed)
    counts = rng.lognormal(0, 0.5, SHARDS) * (rng.random(SHARDS) > 0.01)
    counts = np.floor(counts * (SAMPLES / counts.sum())).astype(np.int64)
    counts[-1] += SAMPLES - counts.sum()
    sizes = counts * PICTURE_BYTES * rng.lognormal(0, SPREAD, SHARDS)
    return counts, sizes.astype(np.int64)


def source_of(setting: str, counts: np.ndarray) -> Order | Mixture:
    """The order that a row of the table names."""
    if "sources" not in setting:
        window = int(setting.split()[1]) if "window" in setting else 0
        return Order(counts, 0, BATCH, window)
    parts = np.split(counts, [SHARDS // 2, SHARDS // 4 * 3])
    return Mixture("abc", parts, (2.0, 1.0, 1.0), 0, BATCH, 64)


def measure(setting: str) -> dict[str, float]:
    """Of one process: seconds until a step's samples are known, then milliseconds of any other.

    The memory is that of the edge between two epochs, when both are kept.
    """
    counts, _ = uneven()
    rank = 700
    started = time.process_time()
    source = source_of(setting, counts)
    next(training_plan(source, source.steps_per_epoch // 3, rank, WORLD_SIZE))
    planned = time.process_time() - started
    first = first_step(source, rank)
    each = []
    slots = np.arange(rank * BATCH // WORLD_SIZE, (rank + 1) * BATCH // WORLD_SIZE)
    some = source.steps_per_epoch // 3, source.steps_per_epoch // 2
    for step in np.random.default_rng(1).integers(*some, STEPS).tolist():
        started = time.process_time()
        source.draw(step, slots)
        each.append(time.process_time() - started)
    median, slow = np.quantile(each, [0.5, 0.99]) * 1e3
    return {"plan": planned, "median": median, "slow": slow, "first": first, "memory": peak()}


def first_step(source: Order | Mixture, rank: int) -> float:
    """Milliseconds of the first step of the second epoch, after those before it."""
    before = 2 * AHEAD
    plan = training_plan(source, source.steps_per_epoch - before, rank, WORLD_SIZE)
    list(islice(plan, before))
    started = time.perf_counter()
    next(plan)
    return (time.perf_counter() - started) * 1e3


def peak() -> float:
    """Megabytes that this process held at most."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def write_manifest(folder: Path) -> None:
    """The manifest of the shards, laid out as the packer's."""
    counts, sizes = uneven()
    with (folder / MANIFEST).open("w") as file:
        file.write(f'{{\n "format": "{FORMAT}",\n "splits": {{\n  "train": [\n')
        for number, (count, size) in enumerate(zip(counts.tolist(), sizes.tolist(), strict=True)):
            digest = hashlib.sha256(number.to_bytes(8)).hexdigest()
            entry = {"bytes": size, "index_sha256": digest, "name": f"train-{number:06}.tar"}
            entry |= {"samples": count, "sha256": digest[::-1]}
            text = json.dumps(entry, indent=1).replace("\n", "\n   ")
            file.write(f"   {text}{',' * (number < SHARDS - 1)}\n")
        file.write("  ]\n }\n}\n")


def read_manifest(folder: Path) -> dict[str, float]:
    """Seconds of CPU and the memory of finding the split and making its digest, as a run does."""
    started = time.process_time()
    split = find_split(folder, "train")
    read = time.process_time() - started
    assert len(split.digest) == 64
    return {"read": read, "digest": time.process_time() - started - read, "memory": peak()}


def asked(*question: object) -> dict[str, float]:
    """What a process of its own answers."""
    command = [sys.executable, __file__, *map(str, question)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main() -> int:
    """Measure every setting, print the table, and compare it with the limits."""
    if len(sys.argv) > 1:
        question, *folder = sys.argv[1:]
        print(json.dumps(read_manifest(Path(folder[0])) if folder else measure(question)))
        return 0
    rows = []
    for setting in SETTINGS:
        cost = asked(setting)
        rows.append((setting, "plan, s", cost["plan"], 1.0))
        rows.append((setting, "a step of one process, ms, median", cost["median"], 1.0))
        rows.append((setting, "the same, 99th of 100", cost["slow"], 1.0))
        rows.append((setting, "the first of the next epoch", cost["first"], 1.0))
        rows.append((setting, "peak memory of a process, MB", cost["memory"], 200.0))
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder))
        cost = asked("manifest", folder)
    rows.append(("manifest", "reading it, s", cost["read"], np.inf))
    rows.append(("manifest", "its digest, s", cost["digest"], np.inf))
    rows.append(("manifest", "peak memory of a process, MB", cost["memory"], 200.0))
    counts, sizes = uneven()
    traffic = process_traffic(Order(counts, 0, BATCH, 64), [sizes], WORLD_SIZE)
    read = traffic.bytes + traffic.index_bytes
    rows.append(("window 64", "bytes read by all / data set", read.sum() / sizes.sum(), 1.02))
    rows.append(("window 64", "bytes of one process, most / mean", read.max() / read.mean(), 1.05))
    for setting, name, value, limit in rows:
        print(f"{setting:<22}{name:<36}{value:>9.4g}   limit {limit:g}")
    print(
        f"window 64: {traffic.requests.sum() / WORLD_SIZE:,.0f} range requests a process, "
        f"{traffic.bytes.sum() / traffic.requests.sum() / 1e6:.3g} MB each"
    )
    return int(any(value > limit for *_, value, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
