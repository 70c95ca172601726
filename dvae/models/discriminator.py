"""PatchGAN: tells real pictures from made ones, each patch by itself.

    images (B, 3, H, W) -> `layers` convolutions k4 s2, one k4 s1 -> logits (B, 1, H/2^layers - 2, …)

Isola et al. 2017, https://arxiv.org/abs/1611.07004. Convolutions are normalised by their spectral norm
(Miyato et al. 2018, https://arxiv.org/abs/1802.05957) or followed by GroupNorm: a picture's logits
never depend on its batch. 2.8 M parameters at 64 channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 8
WIDEST = 8  # times the first layer's channels
SLOPE = 0.2  # of the leaky rectifiers
FIRST_ITERATIONS = 16  # of the power method, on new weights
SIGMA_FLOOR = 1e-12


class SpectralConv(nn.Conv2d):
    """A convolution whose weights, as a matrix of output channels, have the spectral norm 1.

    One step of the power method is taken by `iterate`, once a training step, and not by `forward`:
    so the norm doesn't depend on how a batch is split.
    """

    u: Tensor  # (C_out,), the left singular vector
    v: Tensor  # (C_in k k,), the right one

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 4, stride, padding=1)
        self.register_buffer("u", functional.normalize(torch.randn(out_channels), dim=0))
        self.register_buffer("v", torch.zeros(in_channels * 16))
        for _ in range(FIRST_ITERATIONS):
            self.iterate()

    @torch.no_grad()
    def iterate(self) -> None:
        """One step of the power method."""
        matrix = self.weight.flatten(1)
        self.v.copy_(functional.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(functional.normalize(matrix @ self.v, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        sigma = self.u @ (self.weight.flatten(1) @ self.v)
        return self._conv_forward(x, self.weight / sigma.clamp(min=SIGMA_FLOOR), self.bias)


class Discriminator(nn.Module):
    """The patch discriminator.

    Args:
        channels: of the first layer, a multiple of 8; each later one has twice as many, 8 times at most.
        layers: convolutions of stride 2.
        norm: "spectral", "group" or "none".
    """

    def __init__(self, channels: int = 64, layers: int = 3, norm: str = "spectral") -> None:
        super().__init__()
        widths = [channels * min(2**n, WIDEST) for n in range(layers + 1)]
        parts: list[nn.Module] = []
        for number, width in enumerate(widths):
            before = widths[number - 1] if number else 3
            parts.append(_conv(before, width, 2 if number < layers else 1, norm))
            if norm == "group" and number:
                parts.append(nn.GroupNorm(GROUPS, width))
            parts.append(nn.LeakyReLU(SLOPE))
        self.layers = nn.Sequential(*parts, _conv(widths[-1], 1, 1, norm))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 1, h, w) logits, positive where a patch looks real."""
        return self.layers(images)

    def iterate(self) -> None:
        """Bring the spectral norms up to date with the weights; once a training step."""
        for part in self.layers:
            if isinstance(part, SpectralConv):
                part.iterate()


def _conv(in_channels: int, out_channels: int, stride: int, norm: str) -> nn.Conv2d:
    if norm == "spectral":
        return SpectralConv(in_channels, out_channels, stride)
    return nn.Conv2d(in_channels, out_channels, 4, stride, padding=1)
