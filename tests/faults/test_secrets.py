"""Secrets reach the server that they are for, and nothing that is written or told; servers bind to loopback."""

import base64
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dvae.cli import main as dvae
from dvae.data.manifest import find_split
from dvae.data.reader import Reader
from dvae.plan import main as plan
from dvae.train import main as train_main
from shards.index import main as index
from shards.inspect import main as inspect
from shards.pack import main as pack
from shards.verify import main as verify
from tests.conftest import ROOT
from tests.fault_server import serving
from tests.faults.shard_files import flip

VARIABLES = {
    "HF_TOKEN": "hf_T0kenOfMine",
    "AWS_ACCESS_KEY_ID": "AKIAOFMINE",
    "AWS_SECRET_ACCESS_KEY": "s3cretOfMine",
    "AWS_SESSION_TOKEN": "sess1onOfMine",
}
SHIPPED = ("configs", "dvae", "launch", "shards")
SECRETS = ("hushhush", "s1gnature", base64.b64encode(b"dog:hushhush").decode(), *VARIABLES.values())


@pytest.fixture
def served(shards, pictures, tmp_path_factory, monkeypatch):
    """Shards with a bad picture, an archive and a list, behind a server that wants a password."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path_factory.mktemp("served")
    for path in (*shards.iterdir(), *pictures.rglob("*.png")):
        shutil.copy(path, folder)
    place = Reader(find_split(folder, "train")).place(3)
    flip(folder / place.shard, place.offset + 77)
    with zipfile.ZipFile(folder / "dogs.zip", "w") as made:
        for path in pictures.rglob("*.png"):
            made.write(path, path.relative_to(pictures))
    with serving(folder) as server:
        lines = [secret(server, f"{number}.png") for number in (*range(5), 999)]
        (folder / "list.txt").write_text("\n".join(lines))
        yield server
        assert {who for _, who in server.seen} >= {f"Basic {SECRETS[2]}"}


def secret(server, path):
    address = server.url.removeprefix("http://")
    return f"http://dog:hushhush@{address}/{path}?X-Amz-Signature=s1gnature"


def commands(recipe, data, gone, server, folder):
    """Every way in that takes a URL, going well and going wrong: command, arguments, exit code."""
    run, over = (
        folder / "runs" / "tiny",
        [f"data.train={data}", "data.window=4", "data.max_bad=0.5"],
    )
    staged = ["--staging", folder / "staging"]
    return [
        (train_main, [recipe, *over, "train.guard=skip", "train.spike=1e-9"], 0),
        (train_main, [recipe, *over, "train.seed=1"], 2),
        (train_main, [recipe, *over, "run.name=b", f"train.start={data}"], 2),
        (train_main, [recipe, *over, "run.name=c", f"data.cache_dir={folder}/c"], 0),
        (train_main, [recipe, *over, "run.name=d", "data.max_bad=0"], 3),
        (train_main, [recipe, f"data.train={gone}", "data.window=4", "run.name=e"], 3),
        (train_main, [recipe, f"data.train={data}", f"data.val={gone}", "data.window=4"], 3),
        (train_main, [recipe, f"data.trian={data}"], 2),
        (train_main, [recipe, f"train.steps={data}"], 2),
        (train_main, [recipe, f"data.sources=[{{path='{data}'}}]"], 2),
        (plan, [recipe, *over], 0),
        (dvae, ["evaluate", run, data, "--out", folder / "figures.json"], 0),
        (dvae, ["encode", run, data, folder / "latents", "--split", "val"], 0),
        (dvae, ["fit-prior", run, data, "--kind", "gaussian", "--split", "val"], 0),
        (dvae, ["health", run, data], 0),
        (dvae, ["blur", run, data, "--out", folder / "blur", "--images", "12"], 0),
        (dvae, ["doctor", run, "--shards", data, "--verify"], 1),
        (dvae, ["doctor", run], 1),
        (dvae, ["doctor", data], 2),
        (dvae, ["checkpoints", data], 2),
        (dvae, ["reconstruct", run, data], 2),
        (dvae, ["evaluate", run, gone], 3),
        (dvae, ["sample", data], 2),
        (verify, [data], 3),
        (inspect, [data], 2),
        (index, [data, folder / "indexed"], 2),
        (pack, [secret(server, "dogs.zip"), folder / "zip", *staged], 0),
        (pack, [secret(server, "list.txt"), folder / "list", *staged], 0),
        (pack, [gone, folder / "gone", *staged], 2),
    ]


def test_no_secret_of_a_url_or_of_the_environment_is_written_or_told(
    recipe, train, served, tmp_path, capfd
):
    (tmp_path / "empty").mkdir()
    with serving(tmp_path / "empty") as empty:
        data, gone = secret(served, "data"), secret(empty, "gone")
        for command, arguments, expected in commands(recipe, data, gone, served, tmp_path):
            code = command([str(argument) for argument in arguments])
            told = "".join(capfd.readouterr())
            assert code == expected, (command.__module__, arguments, told)
            assert not [secret for secret in SECRETS if secret in told], (arguments, told)
    (tmp_path / "staging").rename(tmp_path.parent / "staging")  # a copy of the user's own list
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in written} >= {
        *("config.toml", "state.json", "model.safetensors", "README.md", "config.json"),
        *("bad_samples.jsonl", "guard.jsonl", "rejected.jsonl", "figures.json", "samples.jsonl"),
    }
    assert any(path.name.startswith("events.out") for path in written)
    for path in written:
        text = bytes(path) + path.read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in text], path


def test_tensorboard_and_our_servers_listen_on_loopback_alone(tmp_path):
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", tmp_path, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            for line in server.stderr:
                if found := re.search(r"http://(\S+?):(\d+)/", line):
                    break
            assert found[1] in ("localhost", "127.0.0.1")
            assert listening(int(found[2])) <= {"0100007F", "0" * 24 + "01000000"}
        finally:
            server.terminate()


def listening(port):
    """The addresses, in /proc's hexadecimal, at which something listens to a port."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.split(":")[1], 16) == port:
                found.add(address.split(":")[0])
    assert found
    return found


def test_nothing_that_is_shipped_opens_a_server_to_all():
    wide = re.compile(rb"bind_all|\b0\.0\.0\.0\b|HTTPServer|\[::\]")
    paths = [p for folder in SHIPPED for p in (ROOT / folder).rglob("*") if p.is_file()]
    assert len(paths) > 100
    assert not [path for path in paths if path.suffix != ".pyc" and wide.search(path.read_bytes())]
