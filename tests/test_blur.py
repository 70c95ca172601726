"""The blur budget, where the answer is known: gratings, a linear network, and shares set by hand."""

import dataclasses
import json
import math

import pytest
import torch

from dvae.blur import best_codes, budget, measure_blur
from dvae.chart import line_chart
from dvae.cli import main
from dvae.find import load
from dvae.models.blocks import LatentModel

SIZE = 32
FINE = (10, 12, 14)  # cycles a picture, all above half of the highest frequency
COARSE = 3


def grating(cycles):
    x = torch.arange(SIZE) / SIZE
    return torch.sin(2 * math.pi * cycles * x).expand(3, SIZE, SIZE)


class Gratings(LatentModel):
    """Sees the coarse and two of the three fine gratings; keeps half of one's amplitude."""

    image_size, latent_shape = SIZE, (3,)

    def __init__(self) -> None:
        super().__init__()
        patterns = torch.stack([grating(c) for c in (COARSE, *FINE[:2])])
        self.patterns = torch.nn.Parameter(patterns)
        self.kept = torch.tensor([1.0, 1.0, 0.5])  # the third's code is shrunk

    def encode(self, images):
        flat = self.patterns.flatten(1)
        amplitudes = images.flatten(1) @ flat.T / flat.square().sum(1)
        return amplitudes * self.kept, torch.full((len(images), 3), -30.0)

    def decode(self, z):
        return torch.einsum("bd,dchw->bchw", z, self.patterns)


def pictures(count):
    amplitudes = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    amplitudes /= amplitudes.square().mean(0).sqrt()
    patterns = torch.stack([grating(c) for c in (COARSE, *FINE)])
    return torch.einsum("bd,dchw->bchw", amplitudes, patterns) * 2  # codes of deviation 2


def test_each_share_is_the_one_that_was_put_there(trained):
    weights = load(str(trained))
    weights.model = Gratings()
    _, stages, budgets = measure_blur(weights, pictures(400))
    left = {stage.name: stage.high_frequency for stage in stages}
    # Of three fine gratings of equal power one is never seen, and one comes back at half its height;
    # codes of deviation 2 are then drawn with deviation 1, a quarter of the power of two gratings.
    assert left["best codes"] == pytest.approx(2 / 3, abs=0.05)
    assert left["posterior's mean"] == pytest.approx(1.25 / 3, abs=0.05)
    assert left["posterior's sample"] == pytest.approx(1.25 / 3, abs=0.05)
    assert left["N(0, I)"] == pytest.approx(0.5 / 3, abs=0.05)
    shares = dataclasses.astuple(budgets["N(0, I)"])
    assert shares == pytest.approx((1 / 2.5, 0.75 / 2.5, 0.75 / 2.5), abs=0.08)
    assert sum(shares) == pytest.approx(1)


def test_descent_finds_codes_that_the_encoder_does_not_give():
    model, images = Gratings(), pictures(8)
    start = model.encode(images)[0]
    found = best_codes(model, images, start)
    torch.testing.assert_close(found, start / model.kept, atol=0.05, rtol=0.02)


def test_a_budget_adds_up():
    assert sum(dataclasses.astuple(budget(0.5, 0.4, 0.1))) == pytest.approx(1)


def test_blur_writes_a_table_a_chart_and_a_sheet(trained, shards, tmp_path, capsys):
    assert main(["fit-prior", str(trained), str(shards), "--kind", "gaussian"]) == 0
    capsys.readouterr()
    out = tmp_path / "blur"
    arguments = ["blur", str(trained), str(shards), "--images", "8", "--out", str(out)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    values = json.loads((out / "blur.json").read_text())
    names = [stage["name"] for stage in values["stages"]]
    assert names[:2] == ["pictures", "best codes"]
    assert names[-1] == "gaussian prior"
    assert set(values["budgets"]) == {"N(0, I)", "gaussian prior"}
    best, mean = (s["psnr"] for s in values["stages"][1:3])
    assert best >= mean
    assert "the bottleneck's" in shown
    assert (out / "spectra.svg").read_text().count("<polyline") == len(names)
    assert (out / "stages.png").is_file()
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err


def test_a_chart_is_well_formed_and_shows_every_line():
    import xml.etree.ElementTree as ElementTree

    lines = {"a & b": [(0, 1.0), (1, 100.0)], "none": [(0, 0.0)]}
    root = ElementTree.fromstring(line_chart(lines, "title", "x", "y", logarithmic=True))
    assert len(root.findall("{*}polyline")) == 2
