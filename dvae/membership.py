"""Whether a picture is of the kind that a set's are, by EfficientNet-Lite0's classes of ImageNet.

Nobody names the classes: they are the fewest that hold most of the probability that the network gives
to the set's own pictures, such as the breeds of dogs. Low for noise; but two dark spots in a coat are a
dog to it, so it ranks pictures of one kind and doesn't compare kinds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dvae.features.effnet_lite0 import EffNetLite0
from dvae.pictures import as_input

MOST = 1000  # pictures that the classes are learnt from
HELD = 0.9  # of the mean probability, by the set's classes
SIDE = 192  # pixels that pictures are resized to: at 128 the best samples were less like dogs
BATCH = 50


@dataclass(frozen=True)
class Membership:
    """The classes of a set of pictures, and the network that tells them."""

    network: EffNetLite0
    classes: Tensor  # (k,) int64, the likeliest first

    def of(self, images: Tensor) -> Tensor:
        """(n, 3, S, S) uint8 -> (n,) float64, the probability that each is of these classes."""
        return class_probabilities(self.network, images)[:, self.classes].sum(1)


def learn_membership(network: EffNetLite0, images: Tensor) -> Membership:
    """The membership of a set, by the first of its (n, 3, S, S) uint8 pictures, 1,000 at most."""
    return Membership(network, fewest_classes(class_probabilities(network, images[:MOST])))


@torch.no_grad()
def class_probabilities(network: EffNetLite0, images: Tensor) -> Tensor:
    """(n, 3, S, S) uint8 -> (n, 1000) float64, of ImageNet's classes."""
    pooled = [network.pooled(as_input(part), SIDE) for part in images.split(BATCH)]
    return network.probabilities(torch.cat(pooled).double())


def fewest_classes(probabilities: Tensor) -> Tensor:
    """(n, C) -> (k,), the fewest classes that hold 90 % of the mean probability."""
    mean, classes = probabilities.mean(0).sort(descending=True, stable=True)
    before = mean.cumsum(0) - mean  # held by those before each
    return classes[before < HELD * mean.sum()]
