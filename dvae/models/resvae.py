"""ResVAE: a residual VAE with one latent vector a picture.

    images (B, 3, S, S) -> patches (B, C0, S/p, S/p) -> … half the size a stage … -> (B, C, 4, 4)
        -> mean, logvar (B, D) -> z (B, D) -> mirrored, nearest-up -> reconstruction (B, 3, S, S)

GroupNorm and SiLU, no statistics of the batch; average pooling down, nearest neighbour and a
convolution up; the blocks' ends start at zero and the latent heads near it, so that training starts
at the prior. Residual VAEs: Kingma et al. 2016, https://arxiv.org/abs/1606.04934; Vahdat & Kautz
2020, https://arxiv.org/abs/2007.03898.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dvae.models.blocks import (
    GROUPS,
    LatentModel,
    ResBlock,
    Upsample,
    VAEOutput,
    reparameterise,
    start_smooth,
)

HEAD_STD = 1e-3  # of the latent heads' first weights: KL starts near 0


class ResVAE(LatentModel):
    """The modern vector-latent VAE.

    Args:
        image_size: pixels, height = width.
        channels: of each stage, from the outermost in; each later stage has half the size.
        latent_dim: D, numbers in z.
        num_res_blocks: residual blocks a stage, on either side.
        patch_size: 1, or 2 and more to work on patches of so many pixels squared: quicker.
        gradient_checkpointing: compute each stage again in the backward pass instead of keeping it.
    """

    encoder_parts = ("stem", "encoder", "encoder_head", "to_mean", "to_logvar")

    def __init__(
        self,
        image_size: int = 64,
        channels: Sequence[int] = (32, 64, 128, 192),
        latent_dim: int = 128,
        num_res_blocks: int = 1,
        patch_size: int = 1,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.latent_shape = (latent_dim,)
        self.gradient_checkpointing = gradient_checkpointing
        grid = image_size // (patch_size * 2 ** (len(channels) - 1))
        pixels = 3 * patch_size**2
        inner = channels[-1]

        self.stem = nn.Sequential(
            nn.PixelUnshuffle(patch_size), nn.Conv2d(pixels, channels[0], 3, padding=1)
        )
        self.encoder = nn.ModuleList(_encoder_stages(channels, num_res_blocks))
        self.encoder_head = nn.Sequential(nn.GroupNorm(GROUPS, inner), nn.SiLU(), nn.Flatten())
        self.to_mean = nn.Linear(inner * grid * grid, latent_dim)
        self.to_logvar = nn.Linear(inner * grid * grid, latent_dim)

        self.decoder_stem = nn.Sequential(
            nn.Linear(latent_dim, inner * grid * grid), nn.Unflatten(1, (inner, grid, grid))
        )
        self.decoder = nn.ModuleList(_decoder_stages(channels, num_res_blocks))
        to_pixels = nn.Conv2d(channels[0], pixels, 3, padding=1)
        self.decoder_head = nn.Sequential(
            nn.GroupNorm(GROUPS, channels[0]), nn.SiLU(), to_pixels, nn.PixelShuffle(patch_size)
        )
        start_smooth(to_pixels, patch_size)
        for head in (self.to_mean, self.to_logvar):
            nn.init.normal_(head.weight, std=HEAD_STD)
            nn.init.zeros_(head.bias)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) in [-1, 1] -> mean, logvar, each (B, D)."""
        h = self._through(self.encoder, self.stem(images))  # (B, C, grid, grid)
        h = self.encoder_head(h)
        return self.to_mean(h), self.to_logvar(h)

    def decode(self, z: Tensor) -> Tensor:
        """(B, D) -> (B, 3, S, S) in about [-1, 1]."""
        h = self._through(self.decoder, self.decoder_stem(z))  # (B, C0, S/p, S/p)
        return self.decoder_head(h)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Encode, draw one z per image (from `noise` (B, D) where given), decode."""
        mean, logvar = self.encode(images)
        return VAEOutput(self.decode(reparameterise(mean, logvar, noise)), mean, logvar)

    def _through(self, stages: Iterable[nn.Module], h: Tensor) -> Tensor:
        for stage in stages:
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                h = checkpoint(stage, h, use_reentrant=False)
            else:
                h = stage(h)
        return h


def _encoder_stages(channels: Sequence[int], blocks: int) -> list[nn.Module]:
    stages: list[nn.Module] = []
    before = channels[0]
    for index, width in enumerate(channels):
        down: list[nn.Module] = [nn.AvgPool2d(2)] if index else []
        widths = [before] + [width] * blocks
        parts = [ResBlock(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        stages.append(nn.Sequential(*down, *parts))
        before = width
    return stages


def _decoder_stages(channels: Sequence[int], blocks: int) -> list[nn.Module]:
    stages: list[nn.Module] = []
    before = channels[-1]
    for index, width in enumerate(reversed(channels)):
        up: list[nn.Module] = [Upsample(before, width)] if index else []
        stages.append(nn.Sequential(*up, *(ResBlock(width, width) for _ in range(blocks))))
        before = width
    return stages
