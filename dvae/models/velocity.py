"""Networks of a latent prior: the velocity that carries noise to latents.

    x (B, *shape), t (B,) in [0, 1], labels (B,) -> velocity (B, *shape)

x_t = (1 - t) n + t z with n ~ N(0, I) and z a standardised latent; the velocity is E[z - n | x_t]
(Lipman et al. 2023, https://arxiv.org/abs/2210.02747; Liu et al. 2023, https://arxiv.org/abs/2209.03003).
The network adds to the velocity of z ~ N(0, I), which is known, so that an untrained one carries each
noise to itself. `VelocityMLP` is for vectors, `DiT` for maps (Peebles & Xie 2023,
https://arxiv.org/abs/2212.09748).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

TIME_FEATURES = 128  # sines and cosines of t
HEAD_CHANNELS = 32  # of attention


class VelocityModel(nn.Module):
    """What both networks share: the condition on time and label, and the known part of the velocity.

    Args:
        width: of the condition.
        classes: labels that may be asked for; 0: unconditional. Label `classes` means none.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity at (x, t); without labels that of the whole data set.

        Preconditioned as Karras et al. 2022 (https://arxiv.org/abs/2206.00364, section 5) do for
        diffusion: with s = t^2 + (1 - t)^2, the network sees x / sqrt(s), of variance 1, and gives
        what is left of (2 t - 1) x / s, over sqrt(1 / s).
        """
        condition = self.time(time_features(t))  # (B, width)
        if self.label is not None:
            none = torch.full(t.shape, self.classes, dtype=torch.int64, device=t.device)
            condition = condition + self.label(none if labels is None else labels)
        t = t.view(-1, *(1,) * (x.ndim - 1))
        s = t.square() + (1 - t).square()
        rest = self.body(x * s.rsqrt(), functional.silu(condition))
        return (2 * t - 1) / s * x + s.rsqrt() * rest.to(x.dtype)

    def body(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, *shape) of variance 1, (B, width) -> (B, *shape), 0 at the start of training."""
        raise NotImplementedError


class VelocityMLP(VelocityModel):
    """For vectors: residual two-layer perceptrons, each scaled and shifted by the condition.

    Args:
        shape: (D,).
        width: of the residual stream.
        depth: blocks.
        dropout: inside each block.
        classes: as in `VelocityModel`.
    """

    def __init__(
        self, shape: Sequence[int], width: int, depth: int, dropout: float, classes: int
    ) -> None:
        super().__init__(width, classes)
        (size,) = shape
        self.stem = nn.Linear(size, width)
        self.blocks = nn.ModuleList(MLPBlock(width, dropout) for _ in range(depth))
        self.head = Modulated(width, zero_linear(width, size))

    def body(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, D), (B, width) -> (B, D)."""
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, condition)
        return self.head(h, condition)


class DiT(VelocityModel):
    """For maps: a transformer over patches, each block scaled and shifted by the condition.

    Args:
        shape: (C, H, W), H = W.
        width: of a token; a multiple of 32.
        depth: blocks.
        dropout: inside each block.
        classes: as in `VelocityModel`.
        patch_size: latents, a token's side; it divides H.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int,
        depth: int,
        dropout: float,
        classes: int,
        patch_size: int,
    ) -> None:
        super().__init__(width, classes)
        channels, side, _ = shape
        self.side = side // patch_size
        numbers = channels * patch_size**2
        self.stem = nn.Sequential(nn.PixelUnshuffle(patch_size), nn.Conv2d(numbers, width, 1))
        self.blocks = nn.ModuleList(TransformerBlock(width, dropout) for _ in range(depth))
        self.head = Modulated(width, zero_linear(width, numbers))
        self.unpatch = nn.PixelShuffle(patch_size)
        self.register_buffer("places", place_features(self.side, width), persistent=False)

    def body(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, C, H, W), (B, width) -> (B, C, H, W)."""
        h = self.stem(x).flatten(2).mT + self.places  # (B, tokens, width)
        for block in self.blocks:
            h = block(h, condition[:, None])
        h = self.head(h, condition[:, None])  # (B, tokens, C p p)
        return self.unpatch(h.mT.unflatten(2, (self.side, self.side)))


class Modulated(nn.Module):
    """layer(norm(x) (1 + scale) + shift), scale and shift from the condition and 0 at the start."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero_linear(width, 2 * width)
        self.layer = layer

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, …, width), (B, …, width) -> what the layer gives."""
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        return self.layer(self.norm(x) * (1 + scale) + shift)


class MLPBlock(nn.Module):
    """x + perceptron(x); the perceptron ends at 0 at the start."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = Modulated(width, perceptron(width, dropout))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, width), (B, width) -> (B, width)."""
        return x + self.inner(x, condition)


class TransformerBlock(nn.Module):
    """Self-attention, then a perceptron, each added to what comes in."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = Modulated(width, SelfAttention(width))
        self.inner = Modulated(width, perceptron(width, dropout))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, tokens, width), (B, 1, width) -> (B, tokens, width)."""
        x = x + self.attention(x, condition)
        return x + self.inner(x, condition)


class SelfAttention(nn.Module):
    """Multi-head attention with normalised queries and keys (Henry et al. 2020); 0 at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_CHANNELS
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = nn.RMSNorm(HEAD_CHANNELS)
        self.norm_k = nn.RMSNorm(HEAD_CHANNELS)
        self.out = zero_linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, width) -> (B, tokens, width)."""
        split = self.qkv(x).unflatten(2, (3, self.heads, HEAD_CHANNELS))
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (B, heads, tokens, 32)
        h = functional.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v)
        return self.out(h.transpose(1, 2).flatten(2))


def perceptron(width: int, dropout: float) -> nn.Sequential:
    """Two layers, twice as wide inside, 0 at the start."""
    return nn.Sequential(
        nn.Linear(width, 2 * width), nn.SiLU(), nn.Dropout(dropout), zero_linear(2 * width, width)
    )


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer that gives 0 at the start."""
    layer = nn.Linear(in_features, out_features)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def time_features(t: Tensor) -> Tensor:
    """(B,) in [0, 1] -> (B, 128): cosines and sines of 1 to 1,000 radians' frequencies."""
    half = TIME_FEATURES // 2
    frequencies = torch.exp(torch.linspace(0, math.log(1000), half, device=t.device))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def place_features(side: int, width: int) -> Tensor:
    """Where each of side x side tokens stands: (side^2, width), half of them its row, half its column."""
    quarter = width // 4
    frequencies = torch.exp(-math.log(100) * torch.arange(quarter) / quarter)
    angles = torch.arange(side)[:, None] * frequencies  # (side, width / 4)
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = line[:, None].expand(-1, side, -1)
    columns = line[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)
