"""How far apart two pictures look to a frozen network."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

EPS = 1e-10  # inside the root: its gradient at a map of zeros is 0 and not NaN


def resized(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> (B, 3, side, side), antialiased."""
    if images.shape[2:] == (side, side):
        return images
    return functional.interpolate(
        images, (side, side), mode="bilinear", antialias=True, align_corners=False
    )


def normalised(x: Tensor) -> Tensor:
    """(B, C, H, W) -> the same with each position's vector of length 1."""
    return x / torch.sqrt(x.square().sum(1, keepdim=True) + EPS)


def map_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Mean over the maps of the squared distance of normalised vectors, averaged over positions.

    LPIPS of Zhang et al. 2018, equation 1, with all channels' weights 1 and the mean over the maps: a
    stand-in for it, comparable with itself only, and named by its network.

    Args:
        a: maps (B, C, H, W), as of `EffNetLite0.maps`.
        b: the same of the other pictures.

    Returns:
        (B,), 0 for equal pictures, at most 4.
    """
    parts = [
        (normalised(x) - normalised(y)).square().sum(1).mean((1, 2))
        for x, y in zip(a, b, strict=True)
    ]
    return torch.stack(parts).mean(0)
