"""Priors that are fitted to the latents of a trained network: what `dvae sample` draws z from.

A Gaussian or a mixture of them; or a flow, which carries noise to latents along the velocity that a
network learnt (`dvae.models.velocity`). Each knows the shape of z, (D,) or (C, H, W).
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dvae.errors import UserError
from dvae.models.velocity import HEAD_CHANNELS, DiT, VelocityMLP, VelocityModel
from dvae.schema import Count, Part, Positive

MOST_NUMBERS = 4096  # of a latent whose covariance is fitted: 16 million numbers a component
HEUN_STEPS = 30
BATCH = 64  # latents that a flow carries at a time


class FlowConfig(Part):
    """The velocity network of a flow and its training."""

    width: Positive = Field(256, le=4096)
    depth: Positive = Field(4, le=64)
    patch_size: Positive = Field(2, le=64)  # latents a token's side, of maps
    dropout: float = Field(0.1, ge=0, lt=1)
    steps: Positive = 5000
    batch_size: Positive = 256  # over all processes
    learning_rate: float = Field(1e-3, gt=0)
    warmup_steps: Count = 200
    ema: float = Field(0.999, ge=0, lt=1)
    labels: bool = False  # learn each label's latents too
    label_dropout: float = Field(0.1, gt=0, lt=1)  # share of samples that are shown no label
    precision: Literal["fp32", "bf16"] = "fp32"
    save_every: Positive = 1000  # steps
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _check_width(self) -> "FlowConfig":
        if self.width % HEAD_CHANNELS:
            raise ValueError(f"width={self.width} must be a multiple of {HEAD_CHANNELS}")
        return self


class MixturePrior(nn.Module):
    """Gaussians with full covariances over the flattened latent; one of them is the plain Gaussian.

    Args:
        shape: of z.
        components: K.
    """

    weights: Tensor  # (K,)
    means: Tensor  # (K, D)
    factors: Tensor  # (K, D, D): lower triangles L of the covariances L L^T

    def __init__(self, shape: Sequence[int], components: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        numbers = math.prod(self.shape)
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, numbers))
        self.register_buffer("factors", torch.zeros(components, numbers, numbers))

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator, temperature: float) -> Tensor:
        """(count, *shape), on the CPU; the temperature widens or narrows each component."""
        weights, means, factors = (
            t.cpu() for t in (self.weights, self.means, self.factors)
        )  # the generator is the CPU's
        chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, means.shape[1], generator=generator) * temperature
        z = torch.stack([means[k] + factors[k] @ n for k, n in zip(chosen, noise, strict=True)])
        return z.view(count, *self.shape)


class FlowPrior(nn.Module):
    """Noise, carried along a learnt velocity.

    Args:
        shape: of z.
        config: of the network.
        labels: what may be asked for; the order gives them their numbers.
    """

    mean: Tensor  # (C, 1, 1) or (D,): of each channel, or number, of z
    std: Tensor

    def __init__(
        self, shape: Sequence[int], config: FlowConfig, labels: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.labels = tuple(labels)
        self.velocity = velocity_model(self.shape, config, len(self.labels))
        channels = (self.shape[0], *(1 for _ in self.shape[1:]))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    @torch.no_grad()
    def draw(
        self,
        count: int,
        generator: torch.Generator,
        temperature: float,
        label: str | None = None,
        guidance: float = 1.0,
        steps: int = HEUN_STEPS,
    ) -> Tensor:
        """(count, *shape), on the CPU: the flow from t = 0 to 1 in steps of Heun's method.

        Args:
            count: how many.
            generator: of the noise, on the CPU.
            temperature: the standard deviation of the noise.
            label: one of `labels`, or None for all.
            guidance: w: the velocity is v + (w - 1) (v - v without the label); 1: as learnt (Ho &
                Salimans 2022, "Classifier-free diffusion guidance").
            steps: of Heun's method, two evaluations each.

        Raises:
            UserError: it doesn't know the label.
        """
        if label is not None and label not in self.labels:
            known = ", ".join(self.labels) or "none: fit it with labels=true"
            raise UserError(f"--label={label} is not one of the prior's: {known}")
        number = None if label is None else self.labels.index(label)
        noise = torch.randn(count, *self.shape, generator=generator) * temperature
        parts = noise.split(BATCH)
        return torch.cat([self._carried(part, number, guidance, steps) for part in parts])

    def _carried(self, noise: Tensor, number: int | None, guidance: float, steps: int) -> Tensor:
        """(n, *shape) noise -> latents, on the CPU."""
        x = noise.to(self.mean)
        labels = None if number is None else x.new_full((len(x),), number, dtype=torch.int64)

        def velocity(x: Tensor, t: float) -> Tensor:
            times = x.new_full((len(x),), t)
            if labels is None or guidance == 1:
                return self.velocity(x, times, labels)
            free = self.velocity(x, times)
            return free + guidance * (self.velocity(x, times, labels) - free)

        grid = np.linspace(0, 1, steps + 1).tolist()
        for now, then in zip(grid[:-1], grid[1:], strict=True):
            first = velocity(x, now)
            second = velocity(x + (then - now) * first, then)
            x = x + (then - now) * 0.5 * (first + second)
        return (self.mean + self.std * x).cpu()


Prior = MixturePrior | FlowPrior


def velocity_model(shape: Sequence[int], config: FlowConfig, classes: int) -> VelocityModel:
    """A perceptron for vectors, a transformer for maps.

    Raises:
        UserError: the patches don't fill the map.
    """
    if len(shape) == 1:
        return VelocityMLP(shape, config.width, config.depth, config.dropout, classes)
    if shape[1] % config.patch_size:
        raise UserError(f"patch_size={config.patch_size} must divide the latent's {shape[1]} rows")
    return DiT(shape, config.width, config.depth, config.dropout, classes, config.patch_size)


def fit_gaussian(mean: Tensor, variance: Tensor) -> MixturePrior:
    """The Gaussian with the mean and covariance of the aggregated posterior.

    The covariance is that of the posteriors' means, plus the mean of their variances on its diagonal:
    exact, nothing is drawn.

    Args:
        mean: (N, *shape).
        variance: the same, of each posterior.
    """
    flat = mean.flatten(1).double()
    _refuse_large(flat.shape[1])
    covariance = torch.cov(flat.T, correction=0).reshape(flat.shape[1], flat.shape[1])
    covariance += torch.diag(variance.flatten(1).double().mean(0))
    prior = MixturePrior(mean.shape[1:], 1)
    prior.means.copy_(flat.mean(0, keepdim=True))
    prior.factors[0] = _factor(covariance)
    return prior


def fit_mixture(z: Tensor, components: int, seed: int) -> MixturePrior:
    """A mixture of Gaussians by expectation-maximisation (scikit-learn), on (N, *shape) draws.

    Raises:
        UserError: scikit-learn is missing, or there are too few draws.
    """
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError:
        raise UserError("--kind=mixture needs scikit-learn: pip install 'dvae[mixture]'") from None
    flat = z.flatten(1).double()
    _refuse_large(flat.shape[1] * math.isqrt(components))
    if len(flat) < 2 * components:
        raise UserError(f"{len(flat)} latents are too few for {components} components")
    fitted = GaussianMixture(
        components,
        reg_covar=1e-3 * float(flat.var(0).mean()),
        max_iter=50,
        random_state=seed % 2**32,
    ).fit(flat.numpy())
    prior = MixturePrior(z.shape[1:], components)
    prior.weights.copy_(torch.from_numpy(fitted.weights_))
    prior.means.copy_(torch.from_numpy(fitted.means_))
    for factor, covariance in zip(prior.factors, fitted.covariances_, strict=True):
        factor.copy_(_factor(torch.from_numpy(covariance)))
    return prior


def _refuse_large(numbers: int) -> None:
    if numbers > MOST_NUMBERS:
        raise UserError(
            f"a covariance of a latent of this size ({numbers} numbers, {MOST_NUMBERS} at most) can't "
            "be kept: take --kind=flow"
        )


def _factor(covariance: Tensor) -> Tensor:
    """L of L L^T; where numbers of z never move, a millionth of the mean variance is added."""
    little = 1e-6 * covariance.diagonal().mean().clamp(min=1e-12)
    return torch.linalg.cholesky(covariance + little * torch.eye(len(covariance)).to(covariance))
