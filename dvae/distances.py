"""How far one set of pictures lies from another, in some network's features; and how surely.

Each set is (n, d) features, float64. The intervals are of the draw of the pictures, not of the
training's seed: 95 %, by the bootstrap.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

KERNEL_DRAWS, FRECHET_DRAWS = 1000, 100  # of the bootstrap
NEIGHBOURS = 3  # whose distance is a feature's radius, in precision and recall


class Measured(NamedTuple):
    """A value and its interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def kernel_distance(a: Tensor, b: Tensor, seed: int = 0) -> Measured:
    """The unbiased squared distance under the kernel (x.y / d + 1)^3, times 1000.

    The estimate is that of Binkowski et al. 2018, "Demystifying MMD GANs", equation 4; it may be
    negative. Only with Inception's features may it be called KID. The bootstrap leaves a picture's
    copies out of each other's pairs as the estimate leaves out the diagonal: counted, they would lift
    the interval.
    """
    within_a, within_b, between = (
        (x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))
    )
    within_a.fill_diagonal_(0)
    within_b.fill_diagonal_(0)

    def distances(weights_a: Tensor, weights_b: Tensor) -> Tensor:
        cross = ((weights_a @ between) * weights_b).sum(1)
        cross = cross / (weights_a.sum(1) * weights_b.sum(1))
        return 1000 * (_pairs(weights_a, within_a) + _pairs(weights_b, within_b) - 2 * cross)

    value = distances(a.new_ones(1, len(a)), b.new_ones(1, len(b)))
    generator = np.random.default_rng(seed)
    draws = [
        torch.from_numpy(generator.multinomial(n, [1 / n] * n, KERNEL_DRAWS)).to(a)
        for n in (len(a), len(b))
    ]
    low, high = torch.quantile(distances(*draws), a.new_tensor([0.025, 0.975])).tolist()
    return Measured(float(value), low, high)


def frechet_distance(a: Tensor, b: Tensor, seed: int = 0) -> Measured:
    """The squared distance of the Gaussians with the sets' means and covariances.

    Dowson & Landau 1982; Heusel et al. 2017, equation 6, of Inception's features alone FID. Biased
    upwards where n isn't much larger than d: compare equal numbers of pictures only.
    """
    value = _frechet(a, b)
    generator = torch.Generator().manual_seed(seed)
    draws = [
        _frechet(*(x[torch.randint(len(x), (len(x),), generator=generator)] for x in (a, b)))
        for _ in range(FRECHET_DRAWS)
    ]
    half = 1.96 * float(np.std(draws))  # round the value: the draws' own mean is biased
    return Measured(value, value - half, value + half)


def precision(real: Tensor, made: Tensor) -> Measured:
    """The share of made pictures that lie among real ones (Kynkäänniemi et al. 2019, equation 2).

    Among: nearer to some real one than its third neighbour is to it. A single outlier of the real
    ones has a large ball, so it says little of few pictures. The interval is of the made ones' draw.
    """
    return mean_with_interval(_inside(made, real))


def recall(real: Tensor, made: Tensor) -> Measured:
    """The share of real pictures that lie among made ones; see `precision`."""
    return mean_with_interval(_inside(real, made))


def mean_with_interval(values: Tensor) -> Measured:
    """(n,) -> its mean, and 1.96 standard errors round it."""
    mean, half = float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5
    return Measured(mean, mean - half, mean + half)


def nearest(of: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of (n, d) features the place and the distance of the nearest of (m, d): (n,), (n,)."""
    found = [torch.cdist(part, among).min(1) for part in of.split(256)]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])


def _pairs(weights: Tensor, kernel: Tensor) -> Tensor:
    """(R, n) weights, (n, n) with a diagonal of 0 -> (R,), the mean over pairs of two pictures."""
    pairs = weights.sum(1).square() - weights.square().sum(1)
    return ((weights @ kernel) * weights).sum(1) / pairs


def _frechet(a: Tensor, b: Tensor) -> float:
    """The trace of the root of the covariances' product is a nuclear norm of the features' product."""
    parts = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    parts = [torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x for x in parts]
    shared = torch.linalg.svdvals(parts[0] @ parts[1].T).sum()
    spread = sum(x.square().sum() for x in parts)
    return float((a.mean(0) - b.mean(0)).square().sum() + spread - 2 * shared)


def _inside(points: Tensor, of: Tensor) -> Tensor:
    """1 for each point in the ball of some of the set, as large as its third neighbour is far."""
    within = torch.cdist(of, of)
    radii = within.kthvalue(min(NEIGHBOURS + 1, len(of)), dim=1).values  # the first is itself
    return (torch.cdist(points, of) <= radii).any(1).double()
