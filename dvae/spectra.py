"""The power of pictures at each spatial frequency: blur, as a number."""

import torch
from torch import Tensor

HIGH = 0.5  # of the highest frequency: what lies above is fine detail


def ring_power(images: Tensor) -> Tensor:
    """The power of each grey picture at each radial frequency.

    Args:
        images: (n, 3, S, S) in [-1, 1].

    Returns:
        (n, S / 2) at 0, 1, … cycles a picture, sums over rings one cycle wide; a Hann window keeps the
        borders' jump out of the high ones.
    """
    grey = images.mean(1)  # (n, S, S)
    grey = grey.to(torch.promote_types(grey.dtype, torch.float32))
    size = grey.shape[-1]
    line = torch.hann_window(size, periodic=False).to(grey)
    grey = (grey - grey.mean((1, 2), keepdim=True)) * line[:, None] * line
    power = torch.fft.fft2(grey).abs().square() / size**2  # (n, S, S)
    frequency = torch.fft.fftfreq(size, 1 / size).to(grey)
    radius = torch.hypot(frequency[:, None], frequency).round().long()
    rings = power.new_zeros(len(power), int(radius.max()) + 1)
    return rings.index_add(1, radius.flatten(), power.flatten(1))[:, : size // 2]


def power_spectrum(images: Tensor) -> Tensor:
    """The mean of `ring_power` over pictures: (n, 3, S, S) in [-1, 1] -> (S / 2,) float64."""
    return torch.cat([ring_power(part).double() for part in images.split(64)]).mean(0)


def detail(images: Tensor) -> Tensor:
    """The power of each picture above half of the highest frequency: (n, 3, S, S) -> (n,)."""
    return ring_power(images)[:, int(HIGH * images.shape[-1] / 2) :].sum(1)


def high_frequency_ratio(images: Tensor, real: Tensor) -> float:
    """The power above half of the highest frequency, over that of real pictures; 1: as detailed."""
    made, true = (detail(x.double()).mean() for x in (images, real))
    return float(made / true.clamp(min=1e-12))
