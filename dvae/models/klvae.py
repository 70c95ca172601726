"""KLVAE: a VAE with a small picture of latents, the first stage of latent diffusion.

    images (B, 3, S, S) -> patches (B, 3 p p, S/p, S/p) -> … half the size a stage …
        -> mean, logvar (B, C, S/f, S/f) -> z (B, C, S/f, S/f)
        -> mirrored, nearest-up -> patches -> reconstruction (B, 3, S, S)

f = p * 2 ** (stages - 1). Rombach et al. 2022, https://arxiv.org/abs/2112.10752. The parts, and but for
`skip` (there `conv_shortcut`) their names, are those of diffusers' AutoencoderKL, so that weights go
both ways: see `dvae.diffusers_layout`.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dvae.models.blocks import (
    LatentModel,
    ResBlock,
    Upsample,
    VAEOutput,
    reparameterise,
    start_smooth,
)

NORM_EPS = 1e-6


class Attention(nn.Module):
    """x + attention of all positions to all, with one head (Wang et al. 2018, non-local networks)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, NORM_EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        out = nn.Linear(channels, channels)
        nn.init.zeros_(out.weight)
        self.to_out = nn.ModuleList([out])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        h = self.group_norm(x).flatten(2).mT  # (B, H W, C)
        h = functional.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h))
        return x + self.to_out[0](h).mT.reshape(x.shape)


class Downsample(nn.Module):
    """Half the size by a convolution of stride 2, padded below and on the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Middle(nn.Module):
    """Two residual blocks with attention between them where asked."""

    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        blocks = [ResBlock(channels, channels, groups, NORM_EPS) for _ in range(2)]
        self.resnets = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList([Attention(channels, groups)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Stage(nn.Module):
    """Residual blocks at one size, then a change of size; `resize` names its list in the weights."""

    def __init__(self, blocks: Iterable[nn.Module], resize: str, resizers: list[nn.Module]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(blocks)
        self.resize = resize
        if resizers:
            self.add_module(resize, nn.ModuleList(resizers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W), H/2 or 2H."""
        for part in (*self.resnets, *getattr(self, self.resize, ())):
            x = part(x)
        return x


class Encoder(nn.Module):
    """(B, P, S/p, S/p) -> (B, 2 C, S/f, S/f), P = 3 p p."""

    def __init__(
        self,
        pixels: int,
        channels: Sequence[int],
        out: int,
        blocks: int,
        groups: int,
        attention: bool,
    ) -> None:
        super().__init__()
        inner = channels[-1]
        self.conv_in = nn.Conv2d(pixels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for before, width in zip((channels[0], *channels[:-1]), channels, strict=True):
            is_last = len(self.down_blocks) == len(channels) - 1
            down: list[nn.Module] = [] if is_last else [Downsample(width)]
            parts = _res_blocks(before, width, blocks, groups)
            self.down_blocks.append(Stage(parts, "downsamplers", down))
        self.mid_block = Middle(inner, groups, attention)
        self.conv_norm_out = nn.GroupNorm(groups, inner, NORM_EPS)
        self.conv_out = nn.Conv2d(inner, out, 3, padding=1)
        self.gradient_checkpointing = False

    def forward(self, images: Tensor) -> Tensor:
        """(B, P, S/p, S/p) in [-1, 1] -> (B, 2 C, S/f, S/f)."""
        h = self.conv_in(images)
        h = _through(self, (*self.down_blocks, self.mid_block), h)
        return self.conv_out(functional.silu(self.conv_norm_out(h)))


class Decoder(nn.Module):
    """(B, C, S/f, S/f) -> (B, P, S/p, S/p), P = 3 p p."""

    def __init__(
        self,
        pixels: int,
        channels: Sequence[int],
        latents: int,
        blocks: int,
        groups: int,
        attention: bool,
    ) -> None:
        super().__init__()
        reverse = tuple(channels[::-1])
        self.conv_in = nn.Conv2d(latents, reverse[0], 3, padding=1)
        self.mid_block = Middle(reverse[0], groups, attention)
        self.up_blocks = nn.ModuleList()
        for before, width in zip((reverse[0], *reverse[:-1]), reverse, strict=True):
            is_last = len(self.up_blocks) == len(reverse) - 1
            up: list[nn.Module] = [] if is_last else [Upsample(width, width)]
            parts = _res_blocks(before, width, blocks + 1, groups)
            self.up_blocks.append(Stage(parts, "upsamplers", up))
        self.conv_norm_out = nn.GroupNorm(groups, reverse[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(reverse[-1], pixels, 3, padding=1)
        self.gradient_checkpointing = False

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, S/f, S/f) -> (B, P, S/p, S/p) in about [-1, 1]."""
        h = self.conv_in(z)
        h = _through(self, (self.mid_block, *self.up_blocks), h)
        return self.conv_out(functional.silu(self.conv_norm_out(h)))


class KLVAE(LatentModel):
    """The KL-regularised spatial autoencoder.

    Args:
        image_size: pixels, height = width; f divides it.
        channels: of each stage, from the outermost in; each later stage has half the size.
        latent_channels: C.
        num_res_blocks: residual blocks a stage in the encoder; the decoder has one more.
        patch_size: p; 1, or 2 and more to work on patches of so many pixels squared: quicker.
        attention: whether the innermost map attends to itself.
        norm_groups: of the group normalisations; divides every stage's channels.
        quant_conv: a 1x1 convolution after the encoder and before the decoder, as latent diffusion's
            first autoencoders have it; nothing is gained by it.
        gradient_checkpointing: compute each stage again in the backward pass instead of keeping it.
    """

    encoder_parts = ("encoder", "quant_conv")

    def __init__(  # noqa: PLR0913 - each is a key of the recipe
        self,
        image_size: int = 64,
        channels: Sequence[int] = (32, 64, 128),
        latent_channels: int = 4,
        num_res_blocks: int = 1,
        patch_size: int = 1,
        attention: bool = False,
        norm_groups: int = 8,
        quant_conv: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        grid = image_size // (patch_size * 2 ** (len(channels) - 1))
        self.latent_shape = (latent_channels, grid, grid)
        moments = 2 * latent_channels
        shape = (num_res_blocks, norm_groups, attention)
        pixels = 3 * patch_size**2
        self.to_patches = nn.PixelUnshuffle(patch_size)
        self.to_pixels = nn.PixelShuffle(patch_size)
        self.encoder = Encoder(pixels, channels, moments, *shape)
        self.decoder = Decoder(pixels, channels, latent_channels, *shape)
        start_smooth(self.decoder.conv_out, patch_size)
        for part in (self.encoder, self.decoder):
            part.gradient_checkpointing = gradient_checkpointing
        self.quant_conv: nn.Module = nn.Identity()
        self.post_quant_conv: nn.Module = nn.Identity()
        if quant_conv:
            self.quant_conv = nn.Conv2d(moments, moments, 1)
            self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) in [-1, 1] -> mean, logvar, each (B, C, S/f, S/f)."""
        mean, logvar = self.quant_conv(self.encoder(self.to_patches(images))).chunk(2, dim=1)
        return mean, logvar

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, S/f, S/f) -> (B, 3, S, S) in about [-1, 1]."""
        return self.to_pixels(self.decoder(self.post_quant_conv(z)))

    def forward(self, images: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Encode, draw one z per image (from `noise`, shaped as z, where given), decode."""
        mean, logvar = self.encode(images)
        return VAEOutput(self.decode(reparameterise(mean, logvar, noise)), mean, logvar)


def _res_blocks(before: int, width: int, count: int, groups: int) -> list[ResBlock]:
    widths = [before] + [width] * count
    return [ResBlock(a, b, groups, NORM_EPS) for a, b in zip(widths[:-1], widths[1:], strict=True)]


def _through(part: Encoder | Decoder, stages: Iterable[nn.Module], h: Tensor) -> Tensor:
    thrifty = part.gradient_checkpointing and part.training and torch.is_grad_enabled()
    for stage in stages:
        h = checkpoint(stage, h, use_reentrant=False) if thrifty else stage(h)
    return h
