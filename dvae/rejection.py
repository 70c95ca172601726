"""Recognisable samples: of many, those that a classifier takes for pictures of the set.

Razavi et al. 2019, https://arxiv.org/abs/1906.00446, "Trading off Diversity with Classifier Based
Rejection Sampling". They ask for each sample's own class; here nothing is conditional, and the classes
are the set's (`dvae.membership`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dvae.data.batches import Pictures
from dvae.data.manifest import find_split
from dvae.data.reader import Reader
from dvae.data.storage import Location
from dvae.features.effnet_lite0 import load_effnet_lite0
from dvae.generate import Sampling, decode_latents, draw_latents
from dvae.masking import shown
from dvae.membership import MOST, Membership, class_probabilities, fewest_classes
from dvae.pictures import some_pictures, to_pixels
from dvae.weights import Weights

PART = 256  # samples that are decoded before they are judged


class Kept(NamedTuple):
    """The best of some samples, in the order that they were drawn in."""

    images: Tensor  # (count, 3, S, S) in about [-1, 1], on the CPU
    scores: Tensor  # (count,), their membership
    drawn: Tensor  # (n,), that of all


@torch.no_grad()
def best(
    weights: Weights,
    membership: Membership,
    count: int,
    keep: float,
    seed: int,
    how: Sampling | None = None,
) -> Kept:
    """Of the count / keep samples that the seed gives, the `count` with the greatest membership.

    Pictures are held by parts, latents all at once. Raises what `draw_latents` does.
    """
    z = draw_latents(weights, round(count / keep), seed, how or Sampling())
    parts = (to_pixels(decode_latents(weights, part)) for part in z.split(PART))
    drawn = torch.cat([membership.of(part) for part in parts])
    chosen = drawn.argsort(descending=True, stable=True)[:count].sort().values
    return Kept(decode_latents(weights, z[chosen]), drawn[chosen], drawn)


@torch.no_grad()
def membership_of(shards: Location, image_size: int) -> tuple[Membership, float]:
    """That of a training split's pictures, seen in the network's size, and their own mean.

    Raises:
        UserError: there is no such split, or the package of the classifier's weights is missing.
    """
    network = load_effnet_lite0()
    source = Pictures(Reader(find_split(shards, "train")), image_size)
    images, _ = some_pictures(source, MOST, seed=0)
    found = class_probabilities(network, images)
    classes = fewest_classes(found)
    return Membership(network, classes), float(found[:, classes].sum(1).mean())


def sample_best(
    weights: Weights, shards: Location, count: int, keep: float, seed: int, how: Sampling
) -> tuple[Tensor, str]:
    """The pictures of `best`, and a line that says what was done."""
    membership, real = membership_of(shards, weights.model.image_size)
    kept = best(weights, membership, count, keep, seed, how)
    return kept.images, (
        f"kept {count} of {len(kept.drawn)} samples, at the price of diversity; probability of the "
        f"{len(membership.classes)} classes of {shown(str(shards))}, means: kept {kept.scores.mean():.3f}, "
        f"all {kept.drawn.mean():.3f}, training pictures {real:.3f}"
    )
