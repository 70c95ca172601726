"""The look at the first step: planted faults are named, and it changes nothing."""

import pytest

import dvae.adversarial
import dvae.losses
import dvae.models.resvae
import dvae.session
from dvae.features.effnet_lite0 import EffNetLite0

from .conftest import give_network
from .test_adversarial_training import GAME
from .test_collectives import recorded
from .test_train import equal, tensors


def test_weights_are_the_same_to_the_bit_with_and_without_it(recipe, train):
    runs = recipe.parent / "runs"
    for look in ("true", "false"):
        assert (
            train(recipe, f"run.name=look-{look}", f"train.audit={look}", *GAME, "train.steps=3")
            == 0
        )
    one, other = (tensors(runs / f"look-{look}", 3) for look in ("true", "false"))
    assert {name.split("/")[0] for name in one} >= {"model", "ema", "optimizer", "discriminator"}
    assert equal(one, other)


@pytest.mark.parametrize(
    ("network", "overrides"),
    [
        ("klvae", ["model.image_size=32", "model.gradient_checkpointing=true"]),
        ("klvae", ["model.image_size=32", "model.attention=true", "model.quant_conv=true"]),
        ("resvae", ["model.image_size=32", "loss.beta=0", "loss.free_bits=9"]),
        ("dogvae", []),
        ("autoencoder", []),
    ],
)
def test_no_network_is_accused_wrongly(recipe, train, network, overrides):
    give_network(recipe, network)
    assert train(recipe, "train.steps=1", "eval.images=2", *overrides) == 0


def test_a_run_that_goes_on_and_one_from_other_weights_are_looked_at_too(recipe, trained, train):
    again = ["optim.schedule=constant", "run.name=again"]
    assert train(recipe, *again, "train.steps=2") == 0
    assert train(recipe, *again, "train.steps=3") == 0
    decoder = [f"train.start={trained}", "train.decoder_only=true", "run.name=decoder"]
    assert train(recipe, *decoder, "train.steps=1") == 0


DRAW, DISTANCE = dvae.models.resvae.reparameterise, EffNetLite0.distance
KL, TERM = dvae.losses.kl_per_dim, dvae.adversarial.Adversary.term


def learn_nothing(game, pairs, count, step):
    """Instead of `Adversary.learn`."""


FAULTS = {
    "a detached encoder": (
        (dvae.models.resvae, "reparameterise", lambda m, v, n: DRAW(m.detach(), v.detach(), n)),
        "term nll gives no gradient to stem.1.weight, stem.1.bias, ",
    ),
    "a variance that isn't used": (
        (dvae.models.resvae, "reparameterise", lambda m, v, n: DRAW(m, 0 * v, n)),
        "term nll gives no gradient to to_logvar.weight: ",
    ),
    "a detached KL": (
        (dvae.losses, "kl_per_dim", lambda m, v: KL(m, v).detach()),
        "term kl gives no gradient to stem.1.weight",
    ),
    "a detached distance": (
        (EffNetLite0, "distance", lambda self, a, *more: DISTANCE(self, a.detach(), *more)),
        "term perceptual gives no gradient to stem.1.weight",
    ),
    "a detached game": (
        (dvae.adversarial.Adversary, "term", lambda *given: TERM(*given).detach()),
        "term adversarial gives no gradient to stem.1.weight",
    ),
    "a discriminator that doesn't learn": (
        (dvae.adversarial.Adversary, "learn", learn_nothing),
        "the discriminator's loss gives no gradient to layers.0.weight",
    ),
}


@pytest.mark.parametrize(("patch", "message"), FAULTS.values(), ids=FAULTS)
def test_a_term_that_does_not_reach_what_it_should_is_named(
    recipe, train, monkeypatch, capsys, patch, message
):
    monkeypatch.setattr(*patch)
    assert train(recipe, *GAME, "train.steps=2") == 2
    assert message in capsys.readouterr().err
    assert train(recipe, *GAME, "train.audit=false", "train.steps=1", "run.name=blind") == 0


def test_a_frozen_layer_is_named(recipe, train, monkeypatch, capsys):
    build = dvae.session.build

    def frozen(config):
        model = build(config)
        model.decoder_stem.requires_grad_(False)
        return model

    monkeypatch.setattr(dvae.session, "build", frozen)
    assert train(recipe) == 2
    assert "decoder_stem.0.weight, decoder_stem.0.bias can't learn" in capsys.readouterr().err


def test_a_layer_that_the_engine_gives_no_gradient_is_named(recipe, train, monkeypatch, capsys):
    find_gradients = dvae.train.find_gradients

    def forgetful(run, *given):
        sums = find_gradients(run, *given)
        run.bare.to_mean.bias.grad = None
        return sums

    monkeypatch.setattr(dvae.train, "find_gradients", forgetful)
    assert train(recipe) == 2
    assert "the first step gave no gradient to to_mean.bias: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_with_other_weights_or_gradients_is_named(tmp_path, shards):
    ended, _ = recorded(tmp_path, shards, "ddp", 2, DVAE_BUG="drift")
    assert [one.code for one in ended] == [2, 2], ended
    (line,) = [line for line in ended[0].err.splitlines() if "process 1 on " in line]
    assert "the weights of to_mean.weight, the gradients of decoder_head.2.bias differ" in line
    assert not list((tmp_path / "runs").rglob("step-*"))
