"""How fast are pictures loaded, ours beside other loaders? Prints a table with ratios.

    python tests/benchmarks/loading.py --photos FOLDER --install     once: the peers' environment
    python tests/benchmarks/loading.py --photos FOLDER [--quick]

Every loader reads the same 2,000 JPEGs (the photographs, and their centres enlarged to 512 x 512),
shuffles them, takes a random square of 0.75 to 1 of the area, mirrors half, and gives uint8 batches
of 128 at 127 and at 256 pixels. Each measurement is a process of its own; rounds take the loaders in
turn, and ratios are taken inside a round, so that a machine whose speed drifts doesn't decide. CPU
time is the better measure on a busy machine. FFCV needs OpenCV's and TurboJPEG's development files,
which --install takes from Debian where it may.
"""

import argparse
import itertools
import json
import sys
from collections import defaultdict
from pathlib import Path

import loading_data
from loading_job import Job
from loading_tables import Results, limits_table, loaders_table, stages_table, targets_table
from peers import ROOT, Peers, reason, run_script

SIZES = [127, 256]
WORKERS = [1, 2]

# What each peer is installed as; the others come with them.
PACKAGES = {
    "torchvision": ["original", "webdataset_stock"],
    "webdataset": ["webdataset_stock", "webdataset_turbo", "webdataset_ours"],
    "mosaicml-streaming": ["streaming", "streaming_ours"],
    "litdata": ["litdata", "litdata_ours"],
    "grain": ["grain", "grain_ours"],
    "nvidia-dali-cuda120": ["dali"],
    "ffcv": ["ffcv"],
}
SYSTEM_PACKAGES = ["libopencv-dev", "libturbojpeg0-dev", "pkg-config"]  # for FFCV
DATA = ["photos", "enlarged"]
OURS = ["ours", "ours_stored", "bare"]
PEERS = list(dict.fromkeys(itertools.chain(*PACKAGES.values())))
FORMATS = {"streaming": "mds", "litdata": "litdata", "ffcv": "ffcv"}


def write_formats(peers: Peers, folder: Path) -> None:
    """Give a data set the peers' formats, once."""
    for loader, name in FORMATS.items():
        done = folder / f"{name}.done"
        if loader in peers.skipped or done.exists():
            continue
        print(f"writing {folder.name} for {loader}", flush=True)
        result = run_script(peers.python, "loading_data.py", name, folder)
        if result.returncode:
            peers.skipped[loader] = f"writing {name}: {reason(result)}"
        else:
            done.touch()


def measure(job: Job, peers: Peers, seconds: float) -> dict[str, float] | None:
    """One measurement; None, and the reason kept, where it failed."""
    python = sys.executable if job.loader in OURS else peers.python
    done = run_script(python, "loading_worker.py", *job, seconds)
    if done.returncode and job.loader in OURS:
        raise SystemExit(f"{job.loader}: {done.stderr}")
    if done.returncode:
        peers.skipped[job.loader] = reason(done)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def ask(script: str, *question: object) -> dict[str, float]:
    """What a script of ours answers, in a process of its own."""
    done = run_script(sys.executable, script, *question)
    if done.returncode:
        raise SystemExit(f"{script} {question}: {reason(done)}")
    return json.loads(done.stdout)


def run(options: argparse.Namespace, peers: Peers, folders: list[Path]) -> Results:
    """All rounds of all groups: (data, size, workers) -> loader -> one result a round."""
    results: Results = defaultdict(lambda: defaultdict(list))
    for folder, size, workers in itertools.product(folders, options.sizes, options.workers):
        loaders = [name for name in [*OURS, *PEERS] if name in options.only or not options.only]
        if not (folder / f"stored-{size}").is_dir():
            loaders = [name for name in loaders if name != "ours_stored"]
        for number in range(options.rounds):
            for name in loaders if number % 2 == 0 else loaders[::-1]:
                if name in peers.skipped or (name == "bare" and workers > 1):
                    continue
                result = measure(Job(name, folder, size, workers), peers, options.seconds)
                if result:
                    results[folder.name, size, workers][name].append(result)
        print(loaders_table(results, (folder.name, size, workers)), flush=True)
    return results


def only_ours(results: Results, folders: list[Path], sizes: list[int]) -> dict[str, float]:
    """Print the decoder's limit, the quality and the stages; returns what resuming and memory cost."""
    groups = list(itertools.product(folders, sizes))
    qualities = {(f.name, size): ask("loading_ours.py", "quality", f, size) for f, size in groups}
    print(limits_table(results, qualities))
    print(stages_table({(f.name, n): ask("loading_stages.py", f, n) for f, n in groups}))
    resumed = ask("loading_ours.py", "resuming", folders[-1], sizes[0])
    extra = {"resume": resumed["ratio"], "psnr": min(q["mean"] for q in qualities.values())}
    for shards in (1, 10**5):
        asked = ask("loading_ours.py", "memory", folders[-1], sizes[0], shards)
        extra[f"mb_{shards}"] = asked["mb"]
    return extra


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of JPEGs")
    cache = Path("~/.cache/dvae-loading").expanduser()
    parser.add_argument("--home", type=Path, default=cache, help=f"for data and peers: {cache}")
    parser.add_argument("--install", action="store_true", help="install the peers, then stop")
    parser.add_argument("--quick", action="store_true", help="one short round at 127 pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="pixels")
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS], default=[])
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.sizes = 1, 1.5, SIZES[:1]
    return options


def main() -> None:
    """Prepare, measure, print."""
    options = parsed()
    home = options.home.resolve()
    peers = Peers(home, PACKAGES)
    if options.install:
        peers.install(SYSTEM_PACKAGES)
        return
    sys.path.insert(0, str(ROOT))
    folders = [home / "data" / name for name in options.data]
    for folder in folders:
        loading_data.make(options.photos, folder, folder.name == "enlarged", SIZES)
        if not options.only or set(options.only) & set(FORMATS):
            write_formats(peers, folder)
    results = run(options, peers, folders)
    extra = only_ours(results, folders, options.sizes)
    print(targets_table(results, extra))
    for name, why in peers.skipped.items():
        print(f"skipped {name}: {why}")


if __name__ == "__main__":
    main()
