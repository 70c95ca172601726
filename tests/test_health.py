"""Each planted fault is named, with its number, its limit and the key to change."""

import json

import pytest

from dvae.cli import main
from dvae.files import write_manifest
from dvae.health import Record, diagnose, effective_beta, typical_error
from dvae.metrics import Evaluation

from .test_train import events

HEALTHY = {
    "images": 100,
    "bad": 0,
    "dims": 3072,
    "psnr": 25.0,
    "ssim": 0.8,
    "nll": 12000.0,
    "kl": 10.0,
    "bits_per_dim": 5.0,
    "active_units": 8,
    "latent_dim": 8,
    "mean_std": 1.0,
    "hole": 0.01,
    "detail": 0.6,
    "kl_per_dim": (1.25,) * 8,
}


def ill(capsys):
    shown = capsys.readouterr().out
    return {line[4:28].strip() for line in shown.splitlines() if line.startswith("ILL")}, shown


def plant(path, **values):
    """Change the counters of a run's newest checkpoint, as such a run would have left them."""
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | values))
    write_manifest(path)


@pytest.mark.parametrize(
    ("overrides", "name", "key"),
    [
        (["loss.beta=1000"], "collapse", "loss.free_bits"),
        (["loss.scale=0.5", "train.steps=40"], "prior hole", "dvae fit-prior"),
        (["loss.beta=100"], "over-regularisation", "lower loss.beta"),
        (["loss.scale=200"], "blurry by likelihood", "loss.scale=optimal: 200 grey levels"),
    ],
)
def test_a_planted_fault_of_the_recipe_is_named(
    recipe, train, shards, capsys, overrides, name, key
):
    assert train(recipe, *overrides) == 0
    capsys.readouterr()
    run = recipe.parent / "runs" / "tiny"
    assert main(["health", str(run), str(shards)]) == 0
    found, shown = ill(capsys)
    assert name in found
    assert key in shown


@pytest.mark.parametrize(
    ("record", "name", "key"),
    [
        ({"loss_scale": {"scale": 0.25}}, "fp16 overflow", "train.precision=bf16"),
        ({"standing": {"steps": 900, "won": 400}}, "discriminator winning", "adversarial.r1"),
    ],
)
def test_what_a_run_notes_of_itself_is_named(trained, shards, capsys, record, name, key):
    plant(trained / "checkpoints" / "step-00000006", **record)
    capsys.readouterr()
    assert main(["health", str(trained), str(shards)]) == 0
    found, shown = ill(capsys)
    assert name in found
    assert key in shown


def test_a_healthy_run_has_no_ill_finding():
    from dvae.config import LossConfig

    scale = 10.0
    found = diagnose(Evaluation(**HEALTHY), LossConfig(), scale, Record(won=0, loss_scale=65536.0))
    assert [f.name for f in found if f.is_ill] == []
    assert {f.name for f in found} >= {"collapse", "prior hole", "discriminator winning"}
    winning = diagnose(Evaluation(**HEALTHY), LossConfig(), scale, Record(won=500))
    assert [f.name for f in winning if f.is_ill] == ["discriminator winning"]


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_the_error_behind_a_likelihood_is_found_again(likelihood):
    import torch

    from dvae.config import LossConfig
    from dvae.losses import gaussian_nll, laplace_nll

    loss = LossConfig(likelihood=likelihood, beta=2.0)
    error = torch.tensor([3072 * (400.0 if likelihood == "gaussian" else 20.0)])
    nll = (gaussian_nll if likelihood == "gaussian" else laplace_nll)(error, 5.0, 3072)
    result = Evaluation(**HEALTHY | {"nll": float(nll)})
    assert typical_error(result, loss, 5.0) == pytest.approx(20, rel=1e-4)
    share = 1 / 16 if likelihood == "gaussian" else 1 / 4
    assert effective_beta(result, loss, 5.0) == pytest.approx(2 * share, rel=1e-3)


def test_the_numbers_stand_in_tensorboard_while_training(trained):
    for name in ("collapse", "prior hole", "over-regularisation", "blurry by likelihood", "ill"):
        assert [e.step for e in events(trained).Scalars(f"health/{name}")] == [3, 6]


@pytest.mark.slow
def test_a_run_with_a_rate_comes_to_it(recipe, train, shards):
    overrides = ["loss.rate=3", "loss.warmup_steps=10", "train.steps=250", "train.save_every=250"]
    assert train(recipe, *overrides, "eval.every=250", "optim.ema=0") == 0
    kl = [e.value for e in events(recipe.parent / "runs" / "tiny").Scalars("train/kl")]
    assert sum(kl[-30:]) / 30 == pytest.approx(3, rel=0.2)
