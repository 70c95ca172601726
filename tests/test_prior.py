"""Priors: what they fit, what they draw, whose they are."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from dvae.cli import main
from dvae.encode import Latents
from dvae.files import MANIFEST, damage
from dvae.find import load
from dvae.fit_prior import FlowConfig, MixtureConfig, draws, fit
from dvae.generate import Sampling, draw_latents, sample
from dvae.prior import FlowPrior, fit_gaussian
from dvae.weights import read_weights

from .conftest import give_network

FLOW = ["--set", "width=32", "depth=1", "steps=20", "batch_size=8"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def latents_of(mean, variance=0.0, labels=None):
    logvar = torch.full_like(mean, variance).log() if variance else None
    rows = [{"label": label} for label in labels or [""] * len(mean)]
    return Latents(torch.arange(len(mean)), mean, logvar, rows)


@pytest.mark.parametrize("shape", [(5,), (4, 8, 8)])
def test_an_untrained_flow_carries_each_noise_to_itself(shape):
    flow = FlowPrior(shape, FlowConfig(width=32, depth=1))
    noise = torch.randn(3, *shape, generator=generator(1))
    torch.testing.assert_close(flow.draw(3, generator(1), 1.0), noise, atol=1e-3, rtol=1e-3)


def test_a_flow_s_latents_do_not_depend_on_how_many_it_carries_at_a_time(monkeypatch):
    flow = FlowPrior((5,), FlowConfig(width=32, depth=1, dropout=0), ["a", "b"])
    for parameter in flow.velocity.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator())
    whole = flow.draw(7, generator(1), 1.0, "b", 2.0)
    monkeypatch.setattr("dvae.prior.BATCH", 3)
    torch.testing.assert_close(flow.draw(7, generator(1), 1.0, "b", 2.0), whole)


def test_every_parameter_of_a_flow_gets_a_gradient_once_it_has_moved():
    flow = FlowPrior((4, 8, 8), FlowConfig(width=32, depth=1, dropout=0), ["a", "b"])
    for parameter in flow.velocity.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator())
    out = flow.velocity(torch.randn(3, 4, 8, 8), torch.rand(3), torch.tensor([0, 1, 2]))
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in flow.velocity.parameters())


def test_the_gaussian_has_the_mean_and_covariance_of_the_aggregated_posterior():
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [0.0, -0.3, 0.2]])
    mean = torch.randn(20000, 3, generator=generator()) @ mixing.T + torch.tensor([1.0, 0.0, -2.0])
    prior = fit_gaussian(mean, torch.full_like(mean, 0.09))
    drawn = prior.draw(20000, generator(1), 1.0)
    torch.testing.assert_close(drawn.mean(0), mean.mean(0), atol=0.03, rtol=0)
    expected = torch.cov(mean.T) + 0.09 * torch.eye(3)
    torch.testing.assert_close(torch.cov(drawn.T), expected, atol=0.04, rtol=0)
    cold = prior.draw(5, generator(1), 0.0)
    torch.testing.assert_close(cold, prior.means.expand(5, 3))


def test_a_latent_number_that_never_moves_does_not_break_the_gaussian():
    mean = torch.randn(50, 3, generator=generator())
    mean[:, 1] = 4.0
    drawn = fit_gaussian(mean, torch.zeros_like(mean)).draw(100, generator(), 1.0)
    assert (drawn[:, 1] - 4).abs().max() < 0.05


def two_rings(count):
    """Where a Gaussian sees one blob: half of the points at -2 and half at 2, thin."""
    side = torch.randint(2, (count, 1), generator=generator(3)) * 4.0 - 2
    return torch.cat([side, torch.zeros(count, 1)], 1)


@pytest.mark.parametrize("kind", ["mixture", "flow"])
def test_mixtures_and_flows_learn_what_a_gaussian_cannot(kind, tmp_path, trained):
    if kind == "mixture":
        pytest.importorskip("sklearn")
    latents = latents_of(two_rings(512), variance=0.04)
    config = MixtureConfig(components=2)
    if kind == "flow":
        config = FlowConfig(width=64, depth=2, dropout=0, steps=400, batch_size=128)

    def share_between(prior):
        drawn = prior.draw(1000, generator(), 1.0)
        assert drawn[:, 1].std() < 0.35
        return float((drawn[:, 0].abs() < 1).double().mean())

    assert share_between(fit_gaussian(latents.mean, latents.variance)) > 0.3
    assert share_between(fit(latents, config, load(str(trained)), tmp_path).model) < 0.08


def test_a_flow_asked_for_a_label_gives_that_label_s_latents(tmp_path, trained):
    mean = two_rings(512)
    labels = ["left" if x < 0 else "right" for x in mean[:, 0]]
    config = FlowConfig(width=64, depth=2, dropout=0, steps=300, batch_size=128, labels=True)
    flow = fit(latents_of(mean, 0.04, labels), config, load(str(trained)), tmp_path).model
    assert flow.labels == ("left", "right")
    right = flow.draw(300, generator(), 1.0, "right", guidance=1.5)
    assert float((right[:, 0] > 0).double().mean()) > 0.95
    both = flow.draw(300, generator(), 1.0)
    assert 0.3 < float((both[:, 0] > 0).double().mean()) < 0.7


@pytest.fixture
def weights_folder(trained):
    return trained / "weights"


@pytest.mark.parametrize("kind", ["gaussian", "mixture", "flow"])
def test_sample_draws_from_a_fitted_prior_and_normal_stays_n01(
    trained, shards, tmp_path, capsys, kind
):
    if kind == "mixture":
        pytest.importorskip("sklearn")
    chosen = {"gaussian": [], "mixture": ["--set", "components=2"], "flow": FLOW}[kind]
    before = sample(load(str(trained)), 3, 5)
    assert main(["fit-prior", str(trained), str(shards), "--kind", kind, *chosen]) == 0
    assert "fitted to 96 latents" in capsys.readouterr().out  # 48 pictures, each also mirrored
    folder = trained / "weights"
    assert damage(folder) is None
    assert {"prior.safetensors", "prior.json"} <= json.loads((folder / MANIFEST).read_text())[
        "files"
    ].keys()
    assert "fitted to 96 latents" in (folder / "README.md").read_text()
    assert not (trained / "prior-fit" / "flow").exists()
    weights = load(str(trained))
    fitted = sample(weights, 3, 5)
    assert not torch.equal(fitted, before)
    assert torch.equal(sample(load(str(folder)), 3, 5), fitted)
    assert torch.equal(sample(weights, 3, 5, Sampling(normal=True)), before)
    for name, options in (("a", []), ("b", ["--prior", "normal"])):
        out = tmp_path / f"{name}.png"
        assert main(["sample", str(trained), *options, "--out", str(out)]) == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_gaussian_draws_latents_as_wide_as_the_encoded_ones(trained, shards, tmp_path):
    assert main(["encode", str(trained), str(shards), str(tmp_path / "z"), "--mirror"]) == 0
    tensors = load_file(tmp_path / "z" / "latents.safetensors")
    latents = Latents(tensors["ids"], tensors["mean"], tensors["logvar"], [])
    assert main(["fit-prior", str(trained), str(tmp_path / "z"), "--kind", "gaussian"]) == 0
    drawn = draw_latents(load(str(trained)), 4000, 0, Sampling())
    encoded = draws(latents, 0)
    torch.testing.assert_close(drawn.std(0), encoded.std(0), rtol=0.35, atol=0.02)


def test_a_flow_is_fitted_to_maps_of_latents(recipe, train, shards, capsys):
    network = (
        '[model]\nname = "klvae"\nimage_size = 32\nchannels = [16, 32]\nlatent_channels = 2\n\n'
    )
    recipe.write_text(re.sub(r"\[model\].*?\n\n", network, recipe.read_text(), flags=re.S))
    assert train(recipe, "train.steps=1") == 0
    run = str(recipe.parent / "runs" / "tiny")
    assert main(["fit-prior", run, str(shards), *FLOW, "patch_size=4"]) == 0
    weights = load(run)
    assert weights.prior.about.shape == (2, 16, 16)
    assert sample(weights, 2, 0).shape == (2, 3, 32, 32)
    assert main(["fit-prior", run, str(shards), "--set", "patch_size=5"]) == 2
    assert "patch_size=5 must divide the latent's 16 rows" in capsys.readouterr().err


def test_a_prior_is_refused_with_other_weights_and_when_damaged(trained, shards, capsys):
    assert main(["fit-prior", str(trained), str(shards), "--kind", "gaussian"]) == 0
    folder = trained / "weights"
    (folder / MANIFEST).unlink()  # as after copying single files about
    tensors = load_file(folder / "model.safetensors")
    kept = (folder / "model.safetensors").read_bytes()
    tensors["to_mean.bias"] += 1
    save_file(tensors, folder / "model.safetensors")
    capsys.readouterr()
    assert main(["sample", str(trained)]) == 4
    assert "is the prior of other weights" in capsys.readouterr().err
    assert main(["sample", str(trained), "--prior", "normal", "--out", str(folder / "x.png")]) == 0
    (folder / "model.safetensors").write_bytes(kept)
    changed = bytearray((folder / "prior.safetensors").read_bytes())
    changed[-1] ^= 1
    (folder / "prior.safetensors").write_bytes(changed)
    assert main(["sample", str(trained)]) == 4
    assert "does not have the SHA-256" in capsys.readouterr().err
    (folder / "prior.json").write_text("{}")
    assert main(["sample", str(trained)]) == 4
    assert "is not a prior's description" in capsys.readouterr().err


def test_latents_of_other_weights_are_refused(trained, shards, tmp_path, capsys):
    earlier = str(trained / "checkpoints" / "step-00000003")
    assert main(["encode", earlier, str(shards), str(tmp_path / "z")]) == 0
    assert main(["fit-prior", str(trained), str(tmp_path / "z"), "--kind", "gaussian"]) == 4
    assert "latents of other weights" in capsys.readouterr().err


def test_training_on_makes_the_prior_go(recipe, train, trained, shards):
    assert main(["fit-prior", str(trained), str(shards), "--kind", "gaussian"]) == 0
    assert load(str(trained)).prior is not None
    shutil.rmtree(trained / "checkpoints")
    assert train(recipe, "train.seed=3") == 0
    assert load(str(trained)).prior is None


def test_a_copy_by_save_pretrained_keeps_the_prior(trained, shards, tmp_path):
    assert main(["fit-prior", str(trained), str(shards), "--kind", "gaussian"]) == 0
    weights = load(str(trained))
    weights.save_pretrained(tmp_path / "copy")
    assert torch.equal(sample(read_weights(tmp_path / "copy"), 2, 0), sample(weights, 2, 0))


def test_a_plain_autoencoder_is_sampled_from_a_fitted_prior(recipe, train, shards, capsys):
    give_network(recipe, "autoencoder")
    assert train(recipe, "train.steps=1", "model.latent_dim=8") == 0
    run = recipe.parent / "runs" / "tiny"
    assert main(["fit-prior", str(run), str(shards), "--kind", "gaussian"]) == 0
    assert sample(load(str(run)), 2, 0).shape == (2, 3, 127, 127)
    assert main(["sample", str(run), "--prior", "normal"]) == 2
    assert "plain autoencoder" in capsys.readouterr().err


def test_a_killed_fit_goes_on_to_the_same_prior(trained, shards, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    command = [sys.executable, "-m", "dvae.cli", "fit-prior"]
    rest = [str(shards), *FLOW, "save_every=10"]
    kill = os.environ | {"DVAE_FAILPOINT": "prior_saved"}
    died = subprocess.run([*command, str(trained), *rest], env=kill, capture_output=True)
    assert died.returncode == -9
    assert (trained / "prior-fit/flow/checkpoints/step-00000010").is_dir()
    assert load(str(trained)).prior is None
    again = subprocess.run([*command, str(trained), *rest], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "goes on from step 10" in again.stdout
    whole = subprocess.run([*command, str(other), *rest], capture_output=True)
    assert whole.returncode == 0
    a, b = (load_file(run / "weights" / "prior.safetensors") for run in (trained, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit-prior", "{run}", "{shards}", "--set", "widht=64"], "did you mean 'width'"),
        (["fit-prior", "{run}", "{shards}", "--set", "width=40"], "must be a multiple of 32"),
        (
            ["fit-prior", "{run}", "{shards}", "--kind", "gaussian", "--set", "width=64"],
            "unknown key",
        ),
        (["fit-prior", "{run}/checkpoints/step-00000006", "{shards}"], "kept in a weights folder"),
        (["fit-prior", "{run}", "nowhere"], "nowhere is not a folder"),
        (["fit-prior", "{run}", "{shards}", "--split", "test"], "no split 'test'"),
        (["sample", "{run}", "--label", "x"], "labels=true"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(trained, shards, capsys, arguments, message):
    assert main([a.format(run=trained, shards=shards) for a in arguments]) == 2
    assert message in capsys.readouterr().err


def test_sample_names_the_labels_that_it_knows(trained, shards, tmp_path, capsys):
    assert main(["fit-prior", str(trained), str(shards), *FLOW, "labels=true"]) == 0
    labels = load(str(trained)).prior.about.labels
    assert len(labels) > 1
    out = ["--out", str(tmp_path / "s.png")]
    assert main(["sample", str(trained), "--label", labels[0], "--guidance", "2", *out]) == 0
    capsys.readouterr()
    assert main(["sample", str(trained), "--label", "zebra"]) == 2
    assert labels[1] in capsys.readouterr().err
