"""A folder to work in beside one in which nothing may change, and a run that strangers spoil."""

import os
from pathlib import Path

import pytest

from dvae.cli import main as dvae
from tests.conftest import RECIPE, training
from tests.faults.shard_files import picture

GUARDS = ("WDS_SECURE", "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "HF_HUB_DISABLE_IMPLICIT_TOKEN")


class World:
    """A folder to work in, and one beside it in which nothing may change."""

    def __init__(self, folder: Path) -> None:
        self.inside, self.outside = folder / "inside", folder / "outside"
        self.inside.mkdir()
        self.outside.mkdir()
        self.canary, self.secret = self.outside / "canary", self.outside / "secret.jpg"
        self.secret.write_bytes(picture(9))

    def check(self) -> None:
        """Nothing was run, written or changed outside."""
        assert os.listdir(self.outside) == ["secret.jpg"]
        assert self.secret.read_bytes() == picture(9)
        assert sorted(os.listdir(self.outside.parent)) == ["inside", "outside"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    assert not [name for name in GUARDS if name in os.environ]
    made = World(tmp_path)
    monkeypatch.chdir(made.inside)
    yield made
    made.check()


@pytest.fixture(scope="session")
def a_run(shards, tmp_path_factory):
    """A run with two checkpoints, weights and a prior."""
    folder = tmp_path_factory.mktemp("strangers")
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(shards=shards, runs=folder / "runs"))
    with training() as train:
        assert train(recipe) == 0
    run = folder / "runs" / "tiny"
    assert dvae(["fit-prior", str(run), str(shards), "--kind", "gaussian"]) == 0
    return run
