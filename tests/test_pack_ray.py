"""python -m shards.pack --engine ray on a real cluster of two local nodes: the bytes of threads."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter

import pytest

from shards.pack import main
from tests.conftest import ROOT
from tests.test_pack import make_source, packed, tree

pytestmark = pytest.mark.slow
FLAGS = ("--size", "20", "--val", "0.3", "--shard-bytes", "24K")
NODES = {"127.0.0.2", "127.0.0.3"}  # of ray_cluster.py
has_ray = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not has_ray, reason="the extra ray isn't installed (240 MB)")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source") / "photos", 600, texts=1)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    out = packed(source, tmp_path_factory.mktemp("whole") / "out", *FLAGS)
    assert len(list(out.glob("*.tar"))) > 10
    return tree(out)


@pytest.fixture
def cluster(request, tmp_path):
    """The environment that finds a cluster whose workers had `request.param` in theirs."""
    environment = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'traced'}"}
    environment |= {"DVAE_TEST_TRACE": str(tmp_path / "trace")}
    with subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "ray_cluster.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment | request.param,
    ) as process:
        lines = iter(process.stdout.readline, "")
        address = next(line.strip() for line in lines if line.startswith("127.0.0.2:"))
        yield environment | {"RAY_ADDRESS": address}
        process.stdin.close()


def run(environment, source, out, *flags):
    command = [sys.executable, "-m", "shards.pack", str(source), str(out), *FLAGS, *flags]
    return subprocess.run(
        [*command, "--engine", "ray"],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        env=environment,
    )


def traced(tmp_path):
    """How often the workers of each node did what: {(event, address): times}; see tests/traced/."""
    lines = (tmp_path / "trace").read_text().splitlines()
    return Counter(tuple(line.split()[:2]) for line in lines)


@needs_ray
@pytest.mark.parametrize("cluster", [{}], indirect=True)
def test_two_nodes_pack_the_bytes_of_threads_and_go_on(
    cluster, source, whole, tmp_path, record_property
):
    out = tmp_path / "out"
    done = run(cluster, source, out)
    assert done.returncode == 0, done.stderr
    assert tree(out) == whole
    did = traced(tmp_path)
    reads = {node: did["read", node] for node in NODES}
    assert sum(reads.values()) == 601
    assert all(reads.values())
    assert sum(did["write", node] for node in NODES) == len(list(out.glob("*.tar")))
    for node, count in reads.items():
        record_property(f"pictures prepared on {node}", count)
    assert "already packed" in run(cluster, source, out).stdout
    # Half of it by threads, which die; the rest by the cluster.
    half = tmp_path / "half"
    killed = subprocess.run(
        [sys.executable, "-m", "shards.pack", str(source), str(half), *FLAGS],
        env={**os.environ, "DVAE_FAILPOINT": "renamed:20"},
        cwd=ROOT,
        capture_output=True,
    )
    assert killed.returncode == -9
    done = run(cluster, source, half)
    assert (done.returncode, "of an earlier run" in done.stdout) == (0, True), done.stderr
    assert tree(half) == whole
    # Half of it by the cluster, whose command dies.
    half = tmp_path / "another half"
    killed = run(cluster | {"DVAE_FAILPOINT": "renamed:7"}, source, half)
    assert killed.returncode == -9
    assert not (half / "manifest.json").exists()
    done = run(cluster, source, half)
    assert (done.returncode, "of an earlier run" in done.stdout) == (0, True), done.stderr
    assert tree(half) == whole


@needs_ray
@pytest.mark.parametrize("cluster", [{"DVAE_FAILPOINT": "member:30"}], indirect=True)
def test_workers_that_die_amid_a_shard_are_replaced(
    cluster, source, whole, tmp_path, record_property
):
    """Each worker process is killed at the 30th picture that it writes; a shard has fewer."""
    assert max(len(data) for name, data in whole.items() if name.endswith(".tar")) < 30 * 2048
    done = run(cluster, source, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == whole
    did = traced(tmp_path)
    deaths = sum(did["kill", node] for node in NODES)
    assert deaths > 3
    begun = sum(did["write", node] for node in NODES)
    assert begun == len(list((tmp_path / "out").glob("*.tar"))) + deaths  # each of those once more
    record_property("workers killed", deaths)


@needs_ray
@pytest.mark.parametrize("cluster", [{}], indirect=True)
def test_what_a_task_cannot_write_is_told_as_on_threads(cluster, source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-000003.tar").mkdir()
    done = run(cluster, source, out)
    assert done.returncode == 2
    assert "train-000003.tar' cannot be written (Is a directory)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(has_ray, reason="Ray is installed")
def test_without_ray_the_remedy_is_named(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "out"), "--engine", "ray"]) == 2
    assert "--engine ray needs Ray: pip install 'dvae[ray]'" in capsys.readouterr().err
