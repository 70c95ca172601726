"""The terms of the loss against torch.distributions and by hand."""

import math

import pytest
import torch
from torch.distributions import Independent, Laplace, Normal, kl_divergence

from dvae.config import LossConfig
from dvae.losses import (
    GREY_LEVELS,
    absolute_error,
    gaussian_nll,
    kl_per_dim,
    kl_weight,
    laplace_nll,
    loss_terms,
    optimal_scale,
    squared_error,
    steered,
    with_free_bits,
)
from dvae.models.blocks import VAEOutput


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(5, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images + 0.1 * noise, images


def grey(images):
    return (images + 1) * GREY_LEVELS


def test_gaussian_nll_is_the_density_of_grey_levels(pair):
    reconstruction, images = pair
    density = Independent(Normal(grey(reconstruction), 7.5), 3)
    ours = gaussian_nll(squared_error(reconstruction, images), 7.5, 192)
    torch.testing.assert_close(ours, -density.log_prob(grey(images)))


def test_laplace_nll_is_the_density_of_grey_levels(pair):
    reconstruction, images = pair
    density = Independent(Laplace(grey(reconstruction), 5.0), 3)
    ours = laplace_nll(absolute_error(reconstruction, images), 5.0, 192)
    torch.testing.assert_close(ours, -density.log_prob(grey(images)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_is_that_of_torch_distributions(dtype):
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(6, 10, generator=generator, dtype=dtype)
    logvar = torch.randn(6, 10, generator=generator, dtype=dtype)
    prior = Normal(torch.zeros_like(mean), 1.0)
    oracle = kl_divergence(Normal(mean, torch.exp(0.5 * logvar)), prior)
    torch.testing.assert_close(kl_per_dim(mean, logvar), oracle)


def test_kl_is_zero_at_the_prior_and_positive_elsewhere():
    assert kl_per_dim(torch.zeros(2, 3), torch.zeros(2, 3)).abs().max() == 0
    assert (kl_per_dim(torch.full((1, 4), 1e-3), torch.full((1, 4), 1e-3)) > 0).all()


def test_kl_of_near_prior_units_survives_autocast():
    generator = torch.Generator().manual_seed(0)
    mean = 0.02 * torch.randn(1, 4096, generator=generator)
    logvar = 0.02 * torch.randn(1, 4096, generator=generator)
    exact = kl_per_dim(mean.double(), logvar.double()).sum()
    with torch.autocast("cpu", torch.bfloat16):
        ours = kl_per_dim(mean, logvar).sum()
    assert abs(ours - exact) / exact < 1e-3


def test_kl_stays_finite_where_exp_would_not():
    assert torch.isfinite(kl_per_dim(torch.zeros(1, 2), torch.tensor([[1e4, -1e4]]))).all()


def test_the_historical_loss_is_ours_times_a_constant(pair):
    reconstruction, images = pair
    dims, weight = 192, 0.00025
    kl = torch.arange(5, dtype=torch.float64)
    theirs = (grey(reconstruction) - grey(images)).square().flatten(1).mean(1) + weight * kl
    sigma = math.sqrt(weight * dims / 2)
    ours = gaussian_nll(squared_error(reconstruction, images), sigma, dims) + kl
    constant = dims * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close((ours - constant) * weight, theirs)


def test_the_dogvae_recipe_has_the_sigma_of_the_original():
    assert math.sqrt(0.00025 * 3 * 127 * 127 / 2) == pytest.approx(2.45934, abs=1e-5)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_no_scale_is_likelier_than_the_optimal_one(pair, likelihood):
    reconstruction, images = pair
    error, nll = {
        "gaussian": (squared_error, gaussian_nll),
        "laplace": (absolute_error, laplace_nll),
    }[likelihood]
    errors = error(reconstruction, images)
    best = optimal_scale(float(errors.mean()) / 192, likelihood)
    at_best = nll(errors, best, 192).mean()
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert nll(errors, best * factor, 192).mean() > at_best


def test_free_bits_cost_nothing_below_their_limit():
    kl = torch.tensor([[0.01, 0.5], [0.2, 0.0]])
    torch.testing.assert_close(with_free_bits(kl, 0.1), torch.tensor([0.6, 0.3]))
    torch.testing.assert_close(with_free_bits(kl, 0.0), torch.tensor([0.51, 0.2]))


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        ("constant", {0: 4.0, 50: 4.0}),
        ("linear", {0: 0.0, 50: 2.0, 100: 4.0, 1000: 4.0}),
        ("cyclical", {0: 0.0, 10: 2.0, 20: 4.0, 39: 4.0, 40: 0.0, 50: 2.0}),
    ],
)
def test_kl_weight_follows_its_schedule(schedule, weights):
    config = LossConfig(beta=4.0, schedule=schedule, warmup_steps=100, cycle_steps=40)
    for step, weight in weights.items():
        assert kl_weight(step, config) == weight


def test_terms_of_an_autoencoder_have_no_kl(pair):
    reconstruction, images = pair
    output = VAEOutput(reconstruction, torch.ones(5, 4), None)
    terms = loss_terms(output, images, LossConfig(free_bits=0.5), 10.0)
    assert terms.kl.abs().max() == 0
    assert terms.kl_paid.abs().max() == 0


def test_a_steered_beta_holds_where_the_rate_is_met_and_moves_towards_it():
    config = LossConfig(rate=100.0, warmup_steps=10)
    assert steered(2.0, 100.0, 20, config) == 2.0
    assert steered(2.0, 130.0, 20, config) > 2.0
    assert steered(2.0, 70.0, 20, config) < 2.0
    assert steered(2.0, 130.0, 5, config) == 2.0
    assert steered(1.0, 130.0, 20, LossConfig()) == 1.0
    assert steered(9999.0, 1e9, 20, config) <= 1e4


def test_steering_finds_the_weight_whose_rate_was_asked_for():
    config = LossConfig(rate=50.0)
    steering = 1.0
    for step in range(2000):
        kl = 200 / (1 + steering)  # a network whose rate falls as its weight rises: 50 at 3
        steering = steered(steering, kl, step, config)
    assert steering == pytest.approx(3, rel=1e-3)
