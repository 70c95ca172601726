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
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import loading_data
from loading_job import Job
from loading_tables import Results, limits_table, loaders_table, stages_table, targets_table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SIZES = [127, 256]
WORKERS = [1, 2]
LIMIT_SECONDS = 600  # of one measurement: FFCV compiles first

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


class Peers:
    """The peers' environment, and why some of them are skipped."""

    def __init__(self, home: Path) -> None:
        self.python = home / "peers" / "bin" / "python"
        self._reasons = home / "skipped.json"
        self.skipped: dict[str, str] = {}
        if self._reasons.exists():
            self.skipped = json.loads(self._reasons.read_text())
        elif not self.python.exists():
            self.skipped = dict.fromkeys(PEERS, "not installed: run with --install")

    def install(self) -> None:
        """Install each peer; torch and what else is here already is used from here."""
        import site

        import torch

        subprocess.run([sys.executable, "-m", "venv", self.python.parents[1]], check=True)
        code = "import site; print(site.getsitepackages()[0])"
        packages = Path(subprocess.check_output([self.python, "-c", code], text=True).strip())
        (packages / "ours.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        constraint = self.python.parents[1] / "constraint.txt"
        constraint.write_text(f"torch=={torch.__version__}\n")
        self.skipped = {}
        if shutil.which("apt-get") and os.geteuid() == 0:
            apt = ["apt-get", "install", "-y", "--no-install-recommends"]
            subprocess.run([*apt, *SYSTEM_PACKAGES], capture_output=True)  # FFCV's build will tell
        for package, loaders in PACKAGES.items():
            print(f"installing {package}", flush=True)
            pip = [
                self.python,
                "-m",
                "pip",
                "install",
                "--prefer-binary",
                "-c",
                constraint,
                package,
            ]
            done = subprocess.run(pip, capture_output=True, text=True)
            if done.returncode:
                self.skipped |= dict.fromkeys(loaders, f"pip install {package}: {_reason(done)}")
        self._reasons.write_text(json.dumps(self.skipped, indent=2))

    def write_formats(self, folder: Path) -> None:
        """Give a data set the peers' formats, once."""
        for loader, name in FORMATS.items():
            done = folder / f"{name}.done"
            if loader in self.skipped or done.exists():
                continue
            print(f"writing {folder.name} for {loader}", flush=True)
            result = _python(self.python, "loading_data.py", name, folder)
            if result.returncode:
                self.skipped[loader] = f"writing {name}: {_reason(result)}"
            else:
                done.touch()


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a failed command wrote, but for pip's hints."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines()]
    said = [line for line in lines if line and not line.startswith(("hint:", "note:", "[notice]"))]
    return (said or ["it failed without a word"])[-1][:200]


def _python(python: Path | str, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a script beside this one with an interpreter; what it says is kept."""
    paths = os.pathsep.join([str(ROOT), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    arguments = [str(python), "-W", "ignore", *map(str, command)]
    try:
        return subprocess.run(
            arguments,
            cwd=HERE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(arguments, 1, "", f"no end after {LIMIT_SECONDS} s")


def measure(job: Job, peers: Peers, seconds: float) -> dict[str, float] | None:
    """One measurement; None, and the reason kept, where it failed."""
    python = sys.executable if job.loader in OURS else peers.python
    done = _python(python, "loading_worker.py", *job, seconds)
    if done.returncode and job.loader in OURS:
        raise SystemExit(f"{job.loader}: {done.stderr}")
    if done.returncode:
        peers.skipped[job.loader] = _reason(done)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def ask(script: str, *question: object) -> dict[str, float]:
    """What a script of ours answers, in a process of its own."""
    done = _python(sys.executable, script, *question)
    if done.returncode:
        raise SystemExit(f"{script} {question}: {_reason(done)}")
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
    peers = Peers(home)
    if options.install:
        peers.install()
        print(json.dumps(peers.skipped, indent=2) if peers.skipped else "all peers are installed")
        return
    sys.path.insert(0, str(ROOT))
    folders = [home / "data" / name for name in options.data]
    for folder in folders:
        loading_data.make(options.photos, folder, folder.name == "enlarged", SIZES)
        if not options.only or set(options.only) & set(FORMATS):
            peers.write_formats(folder)
    results = run(options, peers, folders)
    extra = only_ours(results, folders, options.sizes)
    print(targets_table(results, extra))
    for name, reason in peers.skipped.items():
        print(f"skipped {name}: {reason}")


if __name__ == "__main__":
    main()
