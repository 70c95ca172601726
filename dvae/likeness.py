"""How like real pictures others are, in the features of the frozen networks that the user has."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from dvae.distances import (
    Measured,
    frechet_distance,
    kernel_distance,
    mean_with_interval,
    precision,
    recall,
)
from dvae.features.effnet_lite0 import EffNetLite0
from dvae.features.files import MissingWeightsError
from dvae.features.inception import Inception
from dvae.features.vgg16 import VGG16
from dvae.membership import Membership
from dvae.pictures import as_input
from dvae.spectra import high_frequency_ratio

BATCH = 50
LEAST_FID = 2048  # pictures of each kind: with fewer the covariances have no full rank

Network = TypeVar("Network")


@dataclass(frozen=True)
class Likeness:
    """How like the reference, real training pictures, some pictures are."""

    pictures: str
    count: int
    distinct: int
    kd_effnetlite0: Measured
    fd_effnetlite0: Measured
    precision: Measured
    recall: Measured
    recognised: Measured  # mean probability of the training pictures' classes
    high_frequency: float  # power above half of the highest frequency, over that of real pictures
    kid: Measured | None  # times 1000; None: no standard weights
    fid: Measured | None  # None: likewise, or fewer than 2,048 pictures


@dataclass(frozen=True)
class Judge:
    """Real training pictures, that others are compared with."""

    images: Tensor  # (m, 3, S, S) uint8
    features: Tensor  # (m, 1280)
    count: int  # the first of them are the reference
    seed: int  # of the bootstrap
    membership: Membership
    inception: Inception | None

    def likeness(self, name: str, images: Tensor, found: Tensor) -> Likeness:
        """How like the reference (n, 3, S, S) uint8 pictures are, whose features were `found`."""
        reference, kid, fid = self.features[: self.count], None, None
        if self.inception:
            pair = in_features(self.inception, images), self.inception_features
            kid = kernel_distance(*pair, self.seed)
            fid = frechet_distance(*pair, self.seed) if len(images) >= LEAST_FID else None
        return Likeness(
            name,
            len(images),
            distinct(images),
            kernel_distance(found, reference, self.seed),
            frechet_distance(found, reference, self.seed),
            precision(reference, found),
            recall(reference, found),
            mean_with_interval(self.membership.of(images)),
            high_frequency_ratio(as_input(images), as_input(self.images[: self.count])),
            kid,
            fid,
        )

    @cached_property
    def inception_features(self) -> Tensor:
        """Of the reference, (count, 2048)."""
        assert self.inception
        return in_features(self.inception, self.images[: self.count])


def if_there(load: Callable[[], Network]) -> Network | None:
    """The network of a `load_…`, or None where the user hasn't its weights."""
    try:
        return load()
    except MissingWeightsError:
        return None


def distinct(images: Tensor) -> int:
    """How many of (n, 3, H, W) uint8 pictures differ."""
    return len({hashlib.sha256(image.contiguous().numpy().data).digest() for image in images})


def in_features(network: EffNetLite0 | Inception, images: Tensor) -> Tensor:
    """(n, 3, H, W) uint8 -> (n, D) float64, D = 1280 or 2048."""
    return torch.cat([network.pooled(as_input(part)) for part in images.split(BATCH)]).double()


@torch.no_grad()
def perceptual(network: EffNetLite0 | VGG16, made: Tensor, true: Tensor) -> Tensor:
    """The distance of each picture from its own: (n, 3, H, W) in [-1, 1] twice -> (n,) float64."""
    pairs = zip(made.split(BATCH), true.split(BATCH), strict=True)
    return torch.cat([network.distance(a, b) for a, b in pairs]).double()
