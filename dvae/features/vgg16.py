"""LPIPS: how far apart two pictures look to VGG16 (Zhang et al. 2018, https://arxiv.org/abs/1801.03924).

The trunk is torchvision's, trained on ImageNet: its file is looked for and never fetched. The heads are
those of LPIPS 0.1 (BSD-2-Clause), 6 kB beside this file.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dvae.features.distance import normalised, resized
from dvae.features.files import find_weights, load_checked

NAME = "vgg16"
FILE, DIGEST = "vgg16-397923af.pth", "397923af"
HEADS = Path(__file__).parent / "lpips_vgg16.safetensors"
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # channels
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of colours in [-1, 1]


class VGG16(nn.Module):
    """The convolutions of VGG16 and LPIPS's heads; computes in its weights' own precision."""

    name = NAME
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        self.ends = []  # layers after which a stage is seen
        for number, widths in enumerate(STAGES):
            layers += [nn.MaxPool2d(2)] if number else []
            for width in widths:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            self.ends.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.heads = nn.ParameterList(torch.zeros(widths[-1]) for widths in STAGES)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])

    def maps(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> maps of 64, 128, 256, 512, 512 channels at strides 1 … 16."""
        with torch.autocast(images.device.type, enabled=False):
            h, found = (images.to(self.shift.dtype) - self.shift) / self.scale, []
            for number, layer in enumerate(self.features):
                h = layer(h)
                if number in self.ends:
                    found.append(h)
            return found

    def distance(self, images: Tensor, others: Tensor, side: int = 0) -> Tensor:
        """LPIPS: (B, 3, H, W) in [-1, 1] twice -> (B,). Equation 1, summed over the five maps.

        Args:
            images: some pictures.
            others: those to compare them with.
            side: pixels that they are resized to; 0: they keep their size.
        """
        if side:
            images, others = resized(images, side), resized(others, side)
        total = images.new_zeros(len(images), dtype=self.shift.dtype)
        for a, b, head in zip(self.maps(images), self.maps(others), self.heads, strict=True):
            apart = (normalised(a) - normalised(b)).square()
            total = total + (apart * head[:, None, None]).sum(1).mean((1, 2))
        return total


def load_vgg16() -> VGG16:
    """The trained network, frozen, in float32, on the CPU.

    Raises:
        UserError: its weights are missing or damaged.
    """
    tensors = load_checked(find_weights(FILE, NAME), DIGEST)
    tensors = {name: value for name, value in tensors.items() if name.startswith("features.")}
    heads = {
        f"heads.{name.removeprefix('head')}": value for name, value in load_file(HEADS).items()
    }
    network = VGG16()
    network.load_state_dict(tensors | heads, strict=False)  # the shift and scale are ours
    return network.eval().requires_grad_(False)
