"""Distances of sets of pictures against known answers and oracles; spectra of known pictures."""

import numpy as np
import pytest
import scipy.linalg
import torch

from dvae.distances import frechet_distance, kernel_distance, nearest, precision, recall
from dvae.spectra import high_frequency_ratio, power_spectrum


def cloud(count, dims=6, shift=0.0, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dims, generator=generator, dtype=torch.float64) * scale + shift


def test_two_draws_of_one_distribution_are_at_no_distance():
    found = kernel_distance(cloud(300), cloud(300, seed=1))
    assert found.low < 0 < found.high
    assert abs(found.value) < 30


def test_the_kernel_distance_is_the_mean_over_pairs():
    a, b = cloud(7), cloud(9, shift=0.5, seed=1)

    def kernel(x, y):
        return (float(x @ y) / 6 + 1) ** 3

    within = [
        np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])
        for x in (a, b)
    ]
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b).value == pytest.approx(1000 * (sum(within) - 2 * between))


@pytest.mark.parametrize(("count", "dims"), [(40, 6), (20, 50)])
def test_the_frechet_distance_is_that_of_the_covariances(count, dims):
    a, b = cloud(count, dims), cloud(count + 5, dims, shift=0.3, scale=1.5, seed=1)
    cov = [np.cov(x.numpy().T) for x in (a, b)]
    root = scipy.linalg.sqrtm(cov[0] @ cov[1] + 1e-12 * np.eye(dims)).real
    shift = float((a.mean(0) - b.mean(0)).square().sum())
    expected = shift + np.trace(cov[0] + cov[1] - 2 * root)
    found = frechet_distance(a, b)
    assert found.value == pytest.approx(expected, rel=1e-4)
    assert found.low < found.value < found.high


def test_farther_is_farther_by_every_distance():
    real = cloud(200)
    near, far = cloud(200, shift=0.3, seed=1), cloud(200, shift=1.5, seed=1)
    for measure in (kernel_distance, frechet_distance):
        assert measure(near, real).high < measure(far, real).low


def test_precision_falls_with_what_is_alien_and_recall_with_what_is_missing():
    real = cloud(300)
    alien = torch.cat([cloud(150, seed=1), cloud(150, shift=30, seed=1)])
    assert precision(real, alien).value == pytest.approx(0.5, abs=0.1)
    one_kind = cloud(300, scale=0.05, seed=1)
    assert precision(real, one_kind).value > 0.9
    assert recall(real, one_kind).value < 0.1
    assert recall(real, cloud(300, seed=2)).value > 0.8


def test_the_nearest_of_a_copy_is_its_original():
    real = cloud(50)
    places, distances = nearest(real[[7, 3]] + 1e-3, real)
    assert places.tolist() == [7, 3]
    assert distances.max() < 0.01


def test_a_grating_has_its_power_at_its_own_frequency():
    x = torch.arange(64) / 64
    grating = torch.sin(2 * torch.pi * 20 * x).expand(1, 3, 64, 64)
    spectrum = power_spectrum(grating)
    assert int(spectrum.argmax()) == 20
    assert float(spectrum[18:23].sum() / spectrum.sum()) > 0.98


def test_blur_takes_the_high_frequencies_and_only_them():
    noise = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert high_frequency_ratio(noise, noise) == pytest.approx(1)
    assert high_frequency_ratio(0.5 * noise, noise) == pytest.approx(0.25)
    blurred = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    assert high_frequency_ratio(blurred, noise) < 0.1
