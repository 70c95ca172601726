"""docs/diagrams.py: the pictures of the README are what the script draws."""

import base64
import configparser
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parent.parent / "docs"
PNG = re.compile(r"data:image/png;base64,([^\"]+)")
NAMES = ("autoencoder.svg", "blur.svg", "data.svg", "vae.svg")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    subprocess.run([sys.executable, DOCS / "diagrams.py", folder], check=True, cwd=DOCS.parent)
    return folder


def pixels(svg):
    images = [Image.open(io.BytesIO(base64.b64decode(data))) for data in PNG.findall(svg)]
    return [np.asarray(image, np.int64) for image in images]


def test_every_committed_diagram_is_drawn_by_the_script(drawn):
    assert sorted(path.name for path in drawn.iterdir()) == list(NAMES)
    assert sorted(path.name for path in DOCS.glob("*.svg")) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_script_draws_the_committed_diagram(drawn, name):
    now, committed = ((folder / name).read_text("utf-8") for folder in (drawn, DOCS))
    assert PNG.sub("", now) == PNG.sub("", committed)
    # Another zlib packs the same pixels into other bytes; another CPU may round one the other way.
    for a, b in zip(pixels(now), pixels(committed), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 8
        assert np.abs(a - b).mean() < 0.1


def test_every_direct_dependency_says_why_it_is_there_from_which_version_and_what_was_tested():
    setup, tested = configparser.ConfigParser(), (DOCS.parent / "constraints.txt").read_text()
    setup.read(DOCS.parent / "setup.cfg")
    lines = (DOCS / "dependencies.md").read_text().splitlines()
    rows = {row[0].split()[1]: row for row in (line.split(" | ") for line in lines) if len(row) > 4}
    extras = {k: v for k, v in setup["options.extras_require"].items() if k != "test"}
    for text in (setup["options"]["install_requires"], *extras.values()):
        for name, _, lowest in (line.partition(">=") for line in text.split()):
            found = rows[name]
            assert found[1]
            assert found[2] == lowest
            assert f"{name}=={found[3]}" in tested or found[3] == "not pinned"
