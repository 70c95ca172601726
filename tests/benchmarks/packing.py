"""How fast are pictures packed, ours beside tar and other packers? Prints a table with ratios.

    python tests/benchmarks/packing.py --photos FOLDER --install     once: the peers' environment
    python tests/benchmarks/packing.py --photos FOLDER [--rounds 5]

Every packer takes the same 2,000 JPEGs, photographs enlarged to 512 x 512, from the page cache, and
writes shards of 64 MB. Each measurement is a process of its own that starts its clock after the
imports; rounds take the packers in turn, and ratios are taken inside a round, so that a machine whose
speed drifts doesn't decide. What is untouched may use all cores, what is resized one; by CPU time all
compare per core. img2dataset's time holds the start of its worker processes.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import loading_data
from loading_job import PICTURES
from peers import ROOT, Peers, reason, run_script

PACKAGES = {
    "webdataset": ["ShardWriter", "Pillow, 256"],
    "mosaicml-streaming": ["MDSWriter"],
    "img2dataset": ["img2dataset", "img2dataset, 256"],
}
OURS, DECODED, SMALL = "ours, header", "ours, decoded", "ours, 256"
PACKERS = ["tar cf", OURS, "ours, header, no fsync", DECODED, "ShardWriter", "MDSWriter"]
PACKERS += ["img2dataset", "bare loop, 256", SMALL, "Pillow, 256", "img2dataset, 256"]
TARGETS = {  # our speed over each one's; the last four per core
    ("tar cf", OURS): 0.5,
    ("ShardWriter", OURS): 5.0,
    ("MDSWriter", OURS): 1.2,
    ("img2dataset", OURS): 20.0,
    ("Pillow, 256", SMALL): 2.5,
    ("img2dataset, 256", SMALL): 2.5,
    ("bare loop, 256", SMALL): 0.9,
}
Results = dict[str, list[dict[str, float]]]


def run(peers: Peers, data: Path, rounds: int, only: list[str]) -> Results:
    """All rounds: packer -> one result each."""
    results: Results = defaultdict(list)
    names = [name for name in PACKERS if not only or name in only]
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            if name in peers.skipped:
                continue
            is_peer = any(name in users for users in PACKAGES.values())
            python = peers.python if is_peer else sys.executable
            out = data / "packed"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            done = run_script(python, "packing_worker.py", name, data / "pictures", out)
            if done.returncode and not is_peer:
                raise SystemExit(f"{name}: {done.stderr}")
            if done.returncode:
                peers.skipped[name] = reason(done)
            else:
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
        print(f"round {number + 1} of {rounds} is done", flush=True)
    return results


def ratios(results: Results, peer: str, ours: str, key: str) -> list[float]:
    """How many times ours is as fast, or as cheap, as a peer: one a round."""
    return [p[key] / o[key] for p, o in zip(results[peer], results[ours], strict=False)]


def spread(values: list[float]) -> str:
    """`median [least-most]`."""
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} [{min(values):.2f}-{max(values):.2f}]"


def table(results: Results) -> str:
    """Each packer's speed, and the targets."""
    lines = ["| packer | images/s | CPU us/image |", "| --- | --- | --- |"]
    for name, rounds in results.items():
        seconds, cpu = (statistics.median(r[key] for r in rounds) for key in ("seconds", "cpu"))
        lines.append(f"| {name} | {PICTURES / seconds:.0f} | {cpu / PICTURES * 1e6:.0f} |")
    lines += ["", "| ours over | wanted | by time | by CPU time |", "| --- | --- | --- | --- |"]
    for (peer, ours), wanted in TARGETS.items():
        time, cpu = (spread(ratios(results, peer, ours, key)) for key in ("seconds", "cpu"))
        lines.append(f"| {peer} ({ours}) | {wanted} | {time} | {cpu} |")
    fsync = ratios(results, OURS, "ours, header, no fsync", "seconds")
    lines += ["", f"with fsync ours takes {spread(fsync)} times as long as without"]
    return "\n".join(lines)


def main() -> None:
    """Prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of JPEGs")
    cache = Path("~/.cache/dvae-packing").expanduser()
    parser.add_argument("--home", type=Path, default=cache, help=f"for data and peers: {cache}")
    parser.add_argument("--install", action="store_true", help="install the peers, then stop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PACKERS, default=[])
    options = parser.parse_args()
    home = options.home.resolve()
    peers = Peers(home, PACKAGES)
    if options.install:
        peers.install()
        return
    sys.path.insert(0, str(ROOT))
    data = home / "data" / "enlarged"
    loading_data.make_pictures(options.photos, data, enlarge=True)
    print(table(run(peers, data, options.rounds, options.only)))
    for name, why in peers.skipped.items():
        print(f"skipped {name}: {why}")


if __name__ == "__main__":
    main()
