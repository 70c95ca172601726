"""Whether a picture is of the kind that a set's are, by EfficientNet-Lite0's classes of ImageNet.

Nobody names the classes: they are the fewest that hold most of the probability that the network gives
to the set's own pictures, such as the breeds of dogs.
"""

from dataclasses import dataclass

from torch import Tensor

from dvae.features.effnet_lite0 import EffNetLite0

MOST = 2000  # pictures that the classes are learnt from
HELD = 0.9  # of the mean probability, by the set's classes


@dataclass(frozen=True)
class Membership:
    """The classes of a set of pictures, and the network that tells them."""

    network: EffNetLite0
    classes: Tensor  # (k,) int64, the likeliest first

    def of(self, features: Tensor) -> Tensor:
        """(n, 1280) pooled features -> (n,), the probability that a picture is of these classes."""
        return self.network.probabilities(features)[:, self.classes].sum(1)


def learn_membership(network: EffNetLite0, features: Tensor) -> Membership:
    """The membership of a set whose first pictures, 2,000 at most, have the (n, 1280) features."""
    return Membership(network, fewest_classes(network.probabilities(features[:MOST])))


def fewest_classes(probabilities: Tensor) -> Tensor:
    """(n, C) -> (k,), the fewest classes that hold 90 % of the mean probability."""
    mean, classes = probabilities.mean(0).sort(descending=True, stable=True)
    before = mean.cumsum(0) - mean  # held by those before each
    return classes[before < HELD * mean.sum()]
