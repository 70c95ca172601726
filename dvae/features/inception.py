"""The Inception network that FID and KID are defined by: pooled features of 2048 numbers.

    images (B, 3, H, W) in [-1, 1] -> 8-bit levels -> 299 x 299 as TensorFlow 1 resizes -> (B, 2048)

Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, as trained and saved on 2015-12-05 and used by Heusel
et al. 2017, https://arxiv.org/abs/1706.08500; names and numbers are those of torch-fidelity's file, which
is looked for and never fetched.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dvae.features.files import MissingWeightsError, find_weights, load_checked

NAME = "inception"
# One file under two names: torch-fidelity's, and pytorch-fid's.
FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
DIGEST = "6726825d"
SIDE = 299  # pixels
NORM_EPS = 1e-3
# Name, channels out, kernel, stride, padding.
Layer = tuple[str, int, int | tuple[int, int], int, int | tuple[int, int]]


class Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, channels: int, layer: Layer) -> None:
        super().__init__()
        _, out, kernel, stride, padding = layer
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        return functional.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, each a chain of layers; a pair of layers at its end goes side by side.

    `pool` is what comes before the branch of one layer "branch_pool": "average" or "max"; or "halve", a
    branch of its own without a layer.
    """

    def __init__(self, channels: int, branches: Sequence[Sequence[Layer]], pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.chains = [[layer[0] for layer in branch] for branch in branches]
        for branch in branches:
            before = channels
            for layer in branch:
                self.add_module(layer[0], Conv(before, layer))
                before = before if layer[0].endswith("a") else layer[1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W), or of half the size."""
        parts = []
        for chain in self.chains:
            h = self._pooled(x) if chain == ["branch_pool"] else x
            for name in chain:
                if name.endswith("a"):
                    parts.append(self.get_submodule(name)(h))  # its twin, "b", comes next
                else:
                    h = self.get_submodule(name)(h)
            parts.append(h)
        if self.pool == "halve":
            parts.append(functional.max_pool2d(x, 3, 2))
        return torch.cat(parts, dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "max":
            return functional.max_pool2d(x, 3, 1, 1)
        return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _a(pool_channels: int) -> list[list[Layer]]:
    return [
        [("branch1x1", 64, 1, 1, 0)],
        [("branch5x5_1", 48, 1, 1, 0), ("branch5x5_2", 64, 5, 1, 2)],
        [
            ("branch3x3dbl_1", 64, 1, 1, 0),
            ("branch3x3dbl_2", 96, 3, 1, 1),
            ("branch3x3dbl_3", 96, 3, 1, 1),
        ],
        [("branch_pool", pool_channels, 1, 1, 0)],
    ]


def _c(inner: int) -> list[list[Layer]]:
    wide, tall = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    return [
        [("branch1x1", 192, 1, 1, 0)],
        [
            ("branch7x7_1", inner, 1, 1, 0),
            ("branch7x7_2", inner, *wide),
            ("branch7x7_3", 192, *tall),
        ],
        [
            ("branch7x7dbl_1", inner, 1, 1, 0),
            ("branch7x7dbl_2", inner, *tall),
            ("branch7x7dbl_3", inner, *wide),
            ("branch7x7dbl_4", inner, *tall),
            ("branch7x7dbl_5", 192, *wide),
        ],
        [("branch_pool", 192, 1, 1, 0)],
    ]


B: list[list[Layer]] = [
    [("branch3x3", 384, 3, 2, 0)],
    [
        ("branch3x3dbl_1", 64, 1, 1, 0),
        ("branch3x3dbl_2", 96, 3, 1, 1),
        ("branch3x3dbl_3", 96, 3, 2, 0),
    ],
]
D: list[list[Layer]] = [
    [("branch3x3_1", 192, 1, 1, 0), ("branch3x3_2", 320, 3, 2, 0)],
    [
        ("branch7x7x3_1", 192, 1, 1, 0),
        ("branch7x7x3_2", 192, (1, 7), 1, (0, 3)),
        ("branch7x7x3_3", 192, (7, 1), 1, (3, 0)),
        ("branch7x7x3_4", 192, 3, 2, 0),
    ],
]
E: list[list[Layer]] = [
    [("branch1x1", 320, 1, 1, 0)],
    [
        ("branch3x3_1", 384, 1, 1, 0),
        ("branch3x3_2a", 384, (1, 3), 1, (0, 1)),
        ("branch3x3_2b", 384, (3, 1), 1, (1, 0)),
    ],
    [
        ("branch3x3dbl_1", 448, 1, 1, 0),
        ("branch3x3dbl_2", 384, 3, 1, 1),
        ("branch3x3dbl_3a", 384, (1, 3), 1, (0, 1)),
        ("branch3x3dbl_3b", 384, (3, 1), 1, (1, 0)),
    ],
    [("branch_pool", 192, 1, 1, 0)],
]


class Inception(nn.Module):
    """The network up to its pooled features; computes in its weights' own precision."""

    name = NAME
    pooled_dim = 2048

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, ("", 32, 3, 2, 0))
        self.Conv2d_2a_3x3 = Conv(32, ("", 32, 3, 1, 0))
        self.Conv2d_2b_3x3 = Conv(32, ("", 64, 3, 1, 1))
        self.MaxPool_1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = Conv(64, ("", 80, 1, 1, 0))
        self.Conv2d_4a_3x3 = Conv(80, ("", 192, 3, 1, 0))
        self.MaxPool_2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = Mixed(192, _a(32), "average")
        self.Mixed_5c = Mixed(256, _a(64), "average")
        self.Mixed_5d = Mixed(288, _a(64), "average")
        self.Mixed_6a = Mixed(288, B, "halve")
        self.Mixed_6b = Mixed(768, _c(128), "average")
        self.Mixed_6c = Mixed(768, _c(160), "average")
        self.Mixed_6d = Mixed(768, _c(160), "average")
        self.Mixed_6e = Mixed(768, _c(192), "average")
        self.Mixed_7a = Mixed(768, D, "halve")
        self.Mixed_7b = Mixed(1280, E, "average")
        self.Mixed_7c = Mixed(2048, E, "max")

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in about [-1, 1] -> (B, 2048) of its nearest 8-bit picture."""
        with torch.autocast(images.device.type, enabled=False):
            dtype = next(self.parameters()).dtype
            levels = ((images.to(dtype) + 1) * 127.5).round().clamp(0, 255)
            h = (resized(levels, SIDE) - 128) / 128
            for part in self.children():
                h = part(h)
            return h.mean((2, 3))


def resized(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side), bilinear, with TensorFlow 1's corners: no antialiasing."""
    for dim in (2, 3):
        size = x.shape[dim]
        place = torch.arange(side, dtype=x.dtype, device=x.device) * (size / side)
        low = place.floor().long()
        share = (place - low).view(-1, 1) if dim == 2 else place - low
        high = (low + 1).clamp(max=size - 1)
        x = x.index_select(dim, low) * (1 - share) + x.index_select(dim, high) * share
    return x


def load_inception() -> Inception:
    """The trained network, frozen, in float32, on the CPU.

    Raises:
        UserError: its weights are missing or damaged.
    """
    try:
        path = find_weights(FILES[1], NAME)
    except MissingWeightsError:
        path = find_weights(FILES[0], NAME)
    tensors = load_checked(path, DIGEST)
    tensors = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
    network = Inception()
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)
