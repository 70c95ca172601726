"""The environment that the peers of a benchmark are installed in, and why some are skipped."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT_SECONDS = 600  # of one measurement: FFCV compiles first


class Peers:
    """An environment under `home`.

    Args:
        home: where it is, and what was skipped.
        packages: what each package is installed for.
    """

    def __init__(self, home: Path, packages: Mapping[str, Sequence[str]]) -> None:
        self.python = home / "peers" / "bin" / "python"
        self._packages = packages
        self._reasons = home / "skipped.json"
        self.skipped: dict[str, str] = {}
        if self._reasons.exists():
            self.skipped = json.loads(self._reasons.read_text())
        elif not self.python.exists():
            names = [name for users in packages.values() for name in users]
            self.skipped = dict.fromkeys(names, "not installed: run with --install")

    def install(self, system_packages: Sequence[str] = ()) -> None:
        """Install each peer; torch and what else is here already is used from here.

        Args:
            system_packages: Debian's, that some are built with, where they can be installed.
        """
        import site

        import torch

        subprocess.run([sys.executable, "-m", "venv", self.python.parents[1]], check=True)
        code = "import site; print(site.getsitepackages()[0])"
        packages = Path(subprocess.check_output([self.python, "-c", code], text=True).strip())
        (packages / "ours.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        constraint = self.python.parents[1] / "constraint.txt"
        constraint.write_text(f"torch=={torch.__version__}\n")
        self.skipped = {}
        if system_packages and shutil.which("apt-get") and os.geteuid() == 0:
            apt = ["apt-get", "install", "-y", "--no-install-recommends"]
            subprocess.run([*apt, *system_packages], capture_output=True)  # a build will tell
        for package, users in self._packages.items():
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
                self.skipped |= dict.fromkeys(users, f"pip install {package}: {reason(done)}")
        self._reasons.write_text(json.dumps(self.skipped, indent=2))
        print(json.dumps(self.skipped, indent=2) if self.skipped else "all peers are installed")


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a failed command wrote, but for pip's hints."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines()]
    said = [line for line in lines if line and not line.startswith(("hint:", "note:", "[notice]"))]
    return (said or ["it failed without a word"])[-1][:200]


def run_script(python: Path | str, *command: object) -> subprocess.CompletedProcess[str]:
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
