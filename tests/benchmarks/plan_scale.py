"""Does the plan of a huge data set cost next to nothing? Prints a table; exit code 1 past a limit.

    python tests/benchmarks/plan_scale.py

10^10 pictures in 10^6 shards of uneven counts and sizes, 1,024 processes of 64 pictures a step. Each
row of time and memory is measured in a fresh process, in its own seconds of CPU. Bytes are worked
out from the plan, with the assumptions of dvae/data/traffic.py; the indexes that processes read count.
Manifests aren't read here: that of 10^6 shards is 259 MB of JSON, and read_splits takes 4.4 s of CPU
and 0.85 GB for it at the peak, 0.7 GB afterwards.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np

from dvae.data.mixture import Mixture
from dvae.data.order import Order
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
    next(training_plan(source, source.steps_per_epoch, rank, WORLD_SIZE))
    each = []
    slots = np.arange(rank * BATCH // WORLD_SIZE, (rank + 1) * BATCH // WORLD_SIZE)
    first, last = source.steps_per_epoch // 3, source.steps_per_epoch // 2
    for step in np.random.default_rng(1).integers(first, last, STEPS).tolist():
        started = time.process_time()
        source.draw(step, slots)
        each.append(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    median, slow = np.quantile(each, [0.5, 0.99]) * 1e3
    return {"plan": planned, "median": median, "slow": slow, "memory": peak / 1e6}


def main() -> int:
    """Measure every setting, print the table, and compare it with the limits."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return 0
    rows = []
    for setting in SETTINGS:
        out = subprocess.run([sys.executable, __file__, setting], check=True, capture_output=True)
        cost = json.loads(out.stdout)
        rows.append((setting, "plan, s", cost["plan"], 1.0))
        rows.append((setting, "a step of one process, ms, median", cost["median"], 1.0))
        rows.append((setting, "the same, 99th of 100", cost["slow"], 1.0))
        rows.append((setting, "peak memory of a process, MB", cost["memory"], 200.0))
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
