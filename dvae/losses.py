"""The terms of the loss: pure functions, one value an image, in nats.

Pixels are counted in grey levels of 255 (a network's [-1, 1] times 127.5), so that the sum of the
negative log-likelihood and the KL, over D log 2, is bits/dim of the 8-bit picture.

The terms of `dvae.judges` have the same unit: weight * D * distance, D = 3 H W. To convert others' weights:
mean |x - y| + w LPIPS + v KL, with x in [-1, 1], KL summed, and the mean over D, is ours over D * 127.5 / b
with likelihood=laplace, scale=b grey levels, perceptual = w * 127.5 / b and beta = v * D * 127.5 / b. Latent
diffusion sums over D instead: its kl_weight=1e-6 is scale=127.5, perceptual=1, beta=1e-6.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dvae.config import LossConfig
from dvae.models.blocks import LOGVAR_RANGE, VAEOutput

GREY_LEVELS = 127.5  # grey levels in one unit of a network's [-1, 1]
FIRST_SCALE = 64.0  # grey levels, before any error was seen
STEERING, MOST_STEERING = 0.03, 1e4  # a step, at a relative error of 1; at most
LEAST_SCALE = 12**-0.5  # grey levels: the standard deviation of rounding to 8 bits


class LossTerms(NamedTuple):
    """Of each image of a batch."""

    error: Tensor  # (B,) summed squared (Gaussian) or absolute (Laplace) error, grey levels
    nll: Tensor  # (B,) nats
    kl: Tensor  # (B,) nats
    kl_paid: Tensor  # (B,) nats, with free bits
    kl_per_dim: Tensor  # (B, D) nats


def loss_terms(
    output: VAEOutput, images: Tensor, config: LossConfig, scale: Tensor | float
) -> LossTerms:
    """The terms of the loss; the loss itself is nll + weight * kl_paid.

    Args:
        output: of the network.
        images: (B, 3, H, W) in [-1, 1].
        config: names the likelihood and the free bits.
        scale: grey levels: sigma of the Gaussian, b of the Laplace density.
    """
    dims = images[0].numel()
    if config.likelihood == "gaussian":
        error = squared_error(output.reconstruction, images)
        nll = gaussian_nll(error, scale, dims)
    else:
        error = absolute_error(output.reconstruction, images)
        nll = laplace_nll(error, scale, dims)
    if output.logvar is None:
        per_dim, free_bits = torch.zeros_like(output.mean.flatten(1)), 0.0
    else:
        mean, logvar = output.mean.flatten(1), output.logvar.flatten(1)
        per_dim, free_bits = kl_per_dim(mean, logvar), config.free_bits
    kl_paid = with_free_bits(per_dim, free_bits)
    return LossTerms(error, nll, per_dim.sum(1), kl_paid, per_dim)


def optimal_scale(mean_error: float, likelihood: str) -> float:
    """The scale under which an error is likeliest, in grey levels.

    Args:
        mean_error: of one number of a picture, squared (Gaussian) or absolute (Laplace).
        likelihood: "gaussian" or "laplace".
    """
    scale = math.sqrt(mean_error) if likelihood == "gaussian" else mean_error
    return max(scale, LEAST_SCALE)


def current_scale(config: LossConfig, mean_error: float | None) -> float:
    """The scale that a recipe fixes, or the optimal one for the error seen so far; grey levels."""
    if config.scale != "optimal":
        return config.scale
    return FIRST_SCALE if mean_error is None else optimal_scale(mean_error, config.likelihood)


def squared_error(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Sum over the pixels of the squared error: (B, 3, H, W) twice -> (B,) in grey levels squared."""
    return _error(reconstruction, images).square().flatten(1).sum(1)


def absolute_error(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Sum over the pixels of the absolute error: (B, 3, H, W) twice -> (B,) in grey levels."""
    return _error(reconstruction, images).abs().flatten(1).sum(1)


def gaussian_nll(error: Tensor, sigma: Tensor | float, dims: int) -> Tensor:
    """-log N(x; reconstruction, sigma^2 I), in nats per image.

    Args:
        error: (B,) of `squared_error`.
        sigma: grey levels. The optimal one is the root of the mean squared error (Rybkin et al.
            2021, "Simple and effective VAE training with calibrated decoders", equation 5).
        dims: D = 3 H W.
    """
    sigma = torch.as_tensor(sigma, dtype=error.dtype, device=error.device)
    return error / (2 * sigma**2) + dims * (torch.log(sigma) + 0.5 * math.log(2 * math.pi))


def laplace_nll(error: Tensor, scale: Tensor | float, dims: int) -> Tensor:
    """-log of the Laplace density with scale b, in nats per image.

    Args:
        error: (B,) of `absolute_error`.
        scale: b in grey levels. The optimal one is the mean absolute error.
        dims: D = 3 H W.
    """
    scale = torch.as_tensor(scale, dtype=error.dtype, device=error.device)
    return error / scale + dims * torch.log(2 * scale)


def kl_per_dim(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)) of a diagonal Gaussian, dimension by dimension.

    Args:
        mean: (B, D).
        logvar: (B, D), natural log of the variance; clamped to [-10, 10].

    Returns:
        (B, D) nats, >= 0, in float32 at least. Kingma & Welling 2013, appendix B, written with expm1
        because 1 + logvar - exp(logvar) loses half of a near-prior unit's KL to rounding.
    """
    with torch.autocast(mean.device.type, enabled=False):
        dtype = torch.promote_types(mean.dtype, torch.float32)
        mean, logvar = mean.to(dtype), logvar.to(dtype).clamp(*LOGVAR_RANGE)
        return 0.5 * (mean.square() + torch.expm1(logvar) - logvar)


def with_free_bits(kl: Tensor, free_bits: float) -> Tensor:
    """KL of each image, where no dimension pays for its first `free_bits` nats.

    Kingma et al. 2016, section C.8, taken per image and not per minibatch, so that the loss of a
    global batch doesn't depend on how it is split.

    Args:
        kl: (B, D) of `kl_per_dim`.
        free_bits: nats per dimension; 0 gives the plain sum.

    Returns:
        (B,) nats per image.
    """
    return kl.clamp(min=free_bits).sum(1) if free_bits else kl.sum(1)


def kl_weight(step: int, config: LossConfig) -> float:
    """The weight of the KL term at a step (0-based).

    `constant`: beta. `linear`: 0 to beta over `warmup_steps` (Bowman et al. 2016). `cyclical`: every
    `cycle_steps` steps anew from 0 to beta over the first half (Fu et al. 2019).
    """
    if config.schedule == "linear" and config.warmup_steps:
        return config.beta * min(1.0, step / config.warmup_steps)
    if config.schedule == "cyclical":
        return config.beta * min(1.0, 2 * (step % config.cycle_steps) / config.cycle_steps)
    return config.beta


def _error(reconstruction: Tensor, images: Tensor) -> Tensor:
    dtype = torch.promote_types(reconstruction.dtype, torch.float32)
    return (reconstruction.to(dtype) - images.to(dtype)) * GREY_LEVELS


def steered(steering: float, kl: float, step: int, config: LossConfig) -> float:
    """What beta is to be multiplied by at the next step, so that the KL comes to `config.rate`.

    It moves by a share of the relative error, on a logarithmic scale; after Shao et al. 2020,
    "ControlVAE", https://arxiv.org/abs/2004.05988, with an integral term alone.

    Args:
        steering: at this step.
        kl: of this step's global batch, nats per image.
        step: 0-based.
        config: names the rate, or 0; until `warmup_steps` nothing moves.
    """
    if not config.rate or step < config.warmup_steps:
        return steering
    error = max(-1.0, min(1.0, kl / config.rate - 1))
    return max(1 / MOST_STEERING, min(MOST_STEERING, steering * math.exp(STEERING * error)))
