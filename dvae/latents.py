"""Points of the latent space: noise that belongs to a sample, and the way between two points.

The noise of the posterior is a function of (seed, epoch, sample id), so a picture meets the same z
whichever process, micro-batch or run decodes it (design contract 1).
"""

import math

import numpy as np
import torch
from torch import Tensor

from dvae.data.keyed import NOISE, key

_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)  # splitmix64's, as int64
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64


def keyed_normal(
    ids: np.ndarray,
    shape: tuple[int, ...],
    seed: int,
    epochs: int | np.ndarray,
    like: Tensor | None = None,
) -> Tensor:
    """Standard normal noise for samples: (B,) ids -> (B, *shape), by Box and Muller 1958.

    The epochs are one for all samples, or (B,), one for each.

    Every number is computed in float64 from its own counter, so that devices and splits of a batch
    agree to rounding. `like` gives the result its type and device; float64 on the CPU without it.
    """
    device = torch.device("cpu") if like is None or like.device.type == "mps" else like.device
    keys = torch.from_numpy(key(seed, epochs, NOISE, ids).view(np.int64)).to(device)
    size = math.prod(shape)
    pairs = (size + 1) // 2
    counters = torch.arange(1, 2 * pairs + 1, device=device, dtype=torch.int64) * _GOLDEN
    bits = _shift(_mix(keys[:, None] + counters), 11)  # (B, 2 pairs), 53 bits
    unit = (bits.to(torch.float64) + 0.5) * 2.0**-53  # in (0, 1)
    radius = torch.sqrt(-2 * torch.log(unit[:, :pairs]))
    angle = 2 * torch.pi * unit[:, pairs:]
    noise = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :size]
    noise = noise.reshape(len(ids), *shape)
    return noise if like is None else noise.to(like.dtype).to(like.device)


def interpolate(start: Tensor, end: Tensor, count: int) -> Tensor:
    """Points from one latent to another along the great circle: z, z -> (count, *shape of z).

    White 2016, "Sampling generative networks": a straight line passes nearer to the origin than any
    sample of N(0, I) in many dimensions does. The length goes linearly from one end's to the other's.
    """
    shape, start, end = start.shape, start.flatten(), end.flatten()
    share = torch.linspace(0, 1, count, device=start.device, dtype=start.dtype)[:, None]
    lengths = start.norm(), end.norm()
    cosine = (start @ end / (lengths[0] * lengths[1]).clamp(min=1e-12)).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if min(*lengths, angle, torch.pi - angle) < 1e-4:  # no great circle, or many
        return ((1 - share) * start + share * end).reshape(-1, *shape)
    direction = (
        torch.sin((1 - share) * angle) * start / lengths[0]
        + torch.sin(share * angle) * end / lengths[1]
    ) / torch.sin(angle)
    return (direction * ((1 - share) * lengths[0] + share * lengths[1])).reshape(-1, *shape)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MULTIPLIERS[0]
    x = (x ^ _shift(x, 27)) * _MULTIPLIERS[1]
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """A logical shift to the right: int64's own one copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
