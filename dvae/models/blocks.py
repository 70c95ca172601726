"""The parts that the networks share: what they return, how z is drawn, residual blocks."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 8  # channels are multiples of this
LOGVAR_RANGE = (-10.0, 10.0)  # exp() stays finite in fp16 and away from 0


class VAEOutput(NamedTuple):
    """What every network's `forward` gives."""

    reconstruction: Tensor  # (B, 3, H, W) in about [-1, 1]
    mean: Tensor  # (B, *latent_shape) of the posterior q(z|x)
    logvar: Tensor | None  # same shape, natural log of its variance; None: no Gaussian, z = mean


class LatentModel(nn.Module):
    """A network that codes a picture as z and decodes it; what training and sampling use."""

    image_size: int  # pixels, height = width
    latent_shape: tuple[int, ...]  # of a picture's z: (D,), or (C, h, w) for a small picture
    is_variational = True  # False: no Gaussian, so nothing to sample from
    encoder_parts: tuple[str, ...]  # names of the modules that only `encode` goes through

    @property
    def latent_dim(self) -> int:
        """D, numbers in a picture's z."""
        return math.prod(self.latent_shape)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, S, S) in [-1, 1] -> mean (B, *latent_shape), and logvar where there is one."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """(B, *latent_shape) -> (B, 3, S, S) in about [-1, 1]."""
        raise NotImplementedError

    def freeze_encoder(self) -> None:
        """Let only the decoder learn."""
        for name in self.encoder_parts:
            self.get_submodule(name).requires_grad_(False)


def reparameterise(mean: Tensor, logvar: Tensor, noise: Tensor | None) -> Tensor:
    """The latent z = mean + sigma * noise, differentiable in both (Kingma & Welling 2013, section 2.4).

    Args:
        mean: (B, *latent_shape).
        logvar: the same shape.
        noise: the same shape, of N(0, 1), or None to draw it from torch's generator.

    Returns:
        z of that shape, in float32 at least, whatever autocast does: exp overflows in fp16.
    """
    with torch.autocast(mean.device.type, enabled=False):
        dtype = torch.promote_types(mean.dtype, torch.float32)
        mean, logvar = mean.to(dtype), logvar.to(dtype).clamp(*LOGVAR_RANGE)
        drawn = torch.randn_like(mean) if noise is None else noise.to(dtype)
        return mean + torch.exp(0.5 * logvar) * drawn


class ResBlock(nn.Module):
    """x + f(x), f = GroupNorm-SiLU-conv twice; f is 0 at the start, so depth costs no stability.

    He et al. 2016 (pre-activation); zero-initialised ends: Zhang et al. 2019 (Fixup).
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int = GROUPS, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return self.skip(x) + h


class Upsample(nn.Module):
    """Twice the size by nearest neighbour, then a convolution: no checkerboard.

    Odena et al. 2016, "Deconvolution and checkerboard artifacts".
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, 2H, 2W)."""
        return self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))


@torch.no_grad()
def start_smooth(conv: nn.Conv2d, patch_size: int) -> None:
    """Give all pixels of a patch the same weights, so that no grid shows at the start of training.

    Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution" (ICNR).
    """
    for values in (conv.weight, conv.bias):
        assert values is not None
        values.copy_(values[:: patch_size**2].repeat_interleave(patch_size**2, dim=0))
