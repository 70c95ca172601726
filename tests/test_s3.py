"""Shards in an object store: a real S3 server on loopback, packed, uploaded, and trained from."""

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dvae.data.index import find_split
from dvae.data.reader import Reader
from shards.index import main as index

from .conftest import ROOT

RCLONE = ROOT / ".venv" / "rclone" / "rclone"
USER, SECRET = "tester", "not-to-be-shown"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RCLONE.is_file(), reason="no rclone: bash tests/run.sh fetches it"),
]


@contextmanager
def serving(folder: Path, log: Path):
    """`rclone serve s3` of a folder whose sub-folders are buckets; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(RCLONE), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{USER},{SECRET}", "--config", os.devnull, str(folder)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def bucket(shards, tmp_path, monkeypatch):
    """The tests' shards, uploaded through the server: s3://dogs/train."""
    import fsspec

    (tmp_path / "store" / "dogs").mkdir(parents=True)
    with serving(tmp_path / "store", tmp_path / "rclone.log") as url:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", USER),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_ENDPOINT_URL", url),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        for path in shards.iterdir():
            if not path.name.startswith("."):
                files.put_file(str(path), f"dogs/train/{path.name}")
        yield "s3://dogs/train"


def test_a_training_from_s3_equals_the_local_one_and_tells_no_secret(
    recipe, train, bucket, shards, tmp_path, capfd
):
    common = ["data.window=4", "train.steps=4", "eval.every=4"]
    assert train(recipe, "run.name=near", *common) == 0
    assert train(recipe, "run.name=far", f"data.train={bucket}", *common) == 0
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    assert train(recipe, "run.name=cached", f"data.train={bucket}", cache, *common) == 0
    runs = recipe.parent / "runs"
    near = load_file(runs / "near" / "weights" / "model.safetensors")
    for name in ("far", "cached"):
        other = load_file(runs / name / "weights" / "model.safetensors")
        assert all(torch.equal(tensor, other[key]) for key, tensor in near.items())
    assert not (runs / "far" / "bad_samples.jsonl").exists()
    said = "".join(capfd.readouterr())
    written = "".join(p.read_text() for p in runs.rglob("*") if p.suffix in (".toml", ".json"))
    assert SECRET not in said + written


def test_foreign_tars_in_s3_are_indexed_and_read(bucket, shards, tmp_path, capsys):
    out = tmp_path / "indexed"
    assert index([bucket, str(out)]) == 0, capsys.readouterr().err
    assert not list(out.glob("*.tar"))
    far, near = (Reader(find_split(folder, "train")) for folder in (out, shards))
    assert len(far) == len(near)
    for sample in (0, 1, len(near) - 1):
        assert far.picture(sample).data == near.picture(sample).data
        assert far.about(sample) == near.about(sample)


def test_a_bucket_that_is_not_there_is_one_message(recipe, train, bucket, capsys):
    assert train(recipe, "data.train=s3://cats/train", "data.window=4") in (2, 3)
    error = capsys.readouterr().err
    assert "s3://cats/train" in error
    assert error.count("\n") == 1
