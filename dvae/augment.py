"""DiffAugment: the same random changes for real and made pictures, with gradients through them.

Zhao et al. 2020, https://arxiv.org/abs/2006.10738: colour, translation and cutout, so that a
discriminator of few pictures can't learn them by heart. The draws belong to the sample.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dvae.data.keyed import AUGMENT, uniform

DRAWS = 7  # brightness, saturation, contrast, shift down and right, hole's place down and right
SHIFT, HOLE = 1 / 8, 1 / 2  # of the side


def draws(ids: np.ndarray, seed: int, epochs: int | np.ndarray, like: Tensor) -> Tensor:
    """(B,) sample ids -> (B, 7) numbers in [0, 1), functions of (seed, epoch, id)."""
    return torch.from_numpy(uniform(ids, DRAWS, seed, epochs, AUGMENT)).to(like)


def diff_augment(images: Tensor, drawn: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] and its (B, 7) draws -> the pictures, changed."""
    return _cut_out(_shifted(_recoloured(images, drawn[:, :3]), drawn[:, 3:5]), drawn[:, 5:])


def _recoloured(images: Tensor, drawn: Tensor) -> Tensor:
    brightness, saturation, contrast = drawn[:, :, None, None, None].unbind(1)
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def _shifted(images: Tensor, drawn: Tensor) -> Tensor:
    count, _, height, width = images.shape
    down, right = ((2 * drawn - 1) * SHIFT * height).round().long().unbind(1)
    rows = torch.arange(height, device=images.device) + 1 + down[:, None]  # in a frame of one pixel
    columns = torch.arange(width, device=images.device) + 1 + right[:, None]
    rows, columns = rows.clamp(0, height + 1), columns.clamp(0, width + 1)
    framed = functional.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    which = torch.arange(count, device=images.device)[:, None, None]
    return framed[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cut_out(images: Tensor, drawn: Tensor) -> Tensor:
    height = images.shape[2]
    line = torch.arange(height, device=images.device)
    start = ((drawn * (1 + HOLE) - HOLE) * height).round()[:, :, None]  # (B, 2, 1)
    inside = (line >= start) & (line < start + HOLE * height)  # (B, 2, H)
    hole = inside[:, 0, :, None] & inside[:, 1, None, :]
    return images * ~hole[:, None]
