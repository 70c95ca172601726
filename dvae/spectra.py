"""The power of pictures at each spatial frequency: blur, as a number."""

import torch
from torch import Tensor

HIGH = 0.5  # of the highest frequency: what lies above is fine detail


def power_spectrum(images: Tensor) -> Tensor:
    """The mean power of grey pictures at each radial frequency.

    Args:
        images: (n, 3, S, S) in [-1, 1].

    Returns:
        (S / 2,) at 0, 1, … cycles a picture, sums over rings one cycle wide; a Hann window keeps the
        borders' jump out of the high ones.
    """
    grey = images.double().mean(1)  # (n, S, S)
    size = grey.shape[-1]
    line = torch.hann_window(size, periodic=False, dtype=grey.dtype)
    grey = (grey - grey.mean((1, 2), keepdim=True)) * line[:, None] * line
    power = torch.fft.fft2(grey).abs().square().mean(0) / size**2  # (S, S)
    frequency = torch.fft.fftfreq(size, 1 / size, dtype=grey.dtype)
    radius = torch.hypot(frequency[:, None], frequency).round().long()
    rings = torch.zeros(int(radius.max()) + 1, dtype=grey.dtype)
    return rings.index_add(0, radius.flatten(), power.flatten())[: size // 2]


def high_frequency_ratio(images: Tensor, real: Tensor) -> float:
    """The power above half of the highest frequency, over that of real pictures; 1: as detailed."""
    made, true = (power_spectrum(x)[int(HIGH * x.shape[-1] / 2) :].sum() for x in (images, real))
    return float(made / true.clamp(min=1e-12))
