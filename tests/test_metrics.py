"""What is reported, against definitions written out by hand; the same on any split."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from dvae.config import LossConfig
from dvae.data.batches import Loader, Pictures
from dvae.data.manifest import find_split
from dvae.data.plans import evaluation_plan
from dvae.data.reader import Reader
from dvae.metrics import evaluate, psnr, ssim
from dvae.models.dogvae import Autoencoder
from dvae.models.resvae import ResVAE


def ssim_by_hand(a, b):
    """Wang et al. 2004, equation 13, window by window, one colour."""
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            top = (2 * mp * mq + c1) * (2 * cov + c2)
            values.append(top / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return np.mean(values)


@pytest.fixture
def two():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 256, (2, 3, 16, 18)).astype(float)
    return np.clip(true + rng.normal(0, 20, true.shape), 0, 255), true


def test_ssim_is_the_published_definition(two):
    noisy, true = two
    ours = ssim(torch.from_numpy(noisy), torch.from_numpy(true))
    for i in range(2):
        by_hand = np.mean([ssim_by_hand(noisy[i, c], true[i, c]) for c in range(3)])
        assert float(ours[i]) == pytest.approx(by_hand, abs=1e-10)
    assert ssim(torch.from_numpy(true), torch.from_numpy(true)).tolist() == [1, 1]


def test_psnr_is_the_published_definition(two):
    noisy, true = two
    ours = psnr(torch.from_numpy(noisy), torch.from_numpy(true))
    mse = ((noisy - true) ** 2).reshape(2, -1).mean(1)
    assert ours.numpy() == pytest.approx(10 * np.log10(255**2 / mse))


@pytest.fixture
def held_out(shards):
    return Pictures(Reader(find_split(shards, "val")), 32)


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = ResVAE(image_size=32, channels=(8, 16), latent_dim=8, patch_size=2)
    torch.nn.init.normal_(network.to_mean.weight, std=0.05)
    return network.eval()


def measured(model, held_out, batch_size=16, world_size=1):
    """As `world_size` processes would measure, their sums added up."""
    sums = []
    result = None
    for rank in range(world_size):
        last = rank == world_size - 1

        def reduce(vector, last=last):
            sums.append(vector)
            return torch.stack(sums).sum(0) if last else vector

        plan = evaluation_plan(len(held_out.reader), batch_size, rank, world_size)
        with Loader(plan, held_out) as batches:
            result = evaluate(model, batches, LossConfig(), 20.0, seed=0, reduce=reduce)
    return result


@pytest.mark.parametrize(("batch_size", "world_size"), [(16, 1), (5, 1), (16, 2), (12, 4)])
def test_an_evaluation_does_not_depend_on_batches_or_processes(
    model, held_out, batch_size, world_size
):
    one = dataclasses.astuple(measured(model, held_out, 1))
    other = dataclasses.astuple(measured(model, held_out, batch_size, world_size))
    for a, b in zip(one, other, strict=True):
        assert b == pytest.approx(a, rel=1e-4)  # 8-bit rounding


def test_an_evaluation_reports_the_bound_in_nats_and_bits(model, held_out):
    result = measured(model, held_out)
    assert result.images == len(held_out.reader)
    assert result.negative_elbo == result.nll + result.kl
    assert result.bits_per_dim == pytest.approx(result.negative_elbo / (3 * 32 * 32 * math.log(2)))
    assert result.kl == pytest.approx(sum(result.kl_per_dim), rel=1e-6)
    assert result.latent_dim == 8


def test_active_units_are_those_whose_mean_moves(model, held_out):
    with torch.no_grad():
        model.to_mean.weight[3:] = 0
    assert measured(model, held_out).active_units == 3


def test_the_mode_of_the_network_is_restored_and_its_statistics_untouched(held_out):
    network = Autoencoder().train()
    before = network.encoder[1].running_mean.clone()
    held_out_127 = dataclasses.replace(held_out, image_size=127)
    result = measured(network, held_out_127)
    assert network.training
    assert torch.equal(before, network.encoder[1].running_mean)
    assert result.bits_per_dim is None
