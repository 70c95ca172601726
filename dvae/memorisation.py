"""Whether samples are copies of training pictures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dvae.data.reader import Place

NEAR = 0.01  # of the held-out pictures lie as near to a training picture as "near" means


@dataclass(frozen=True)
class Memory:
    """Whether samples are copies: distances to the nearest training picture, in feature space."""

    train: int  # pictures that were looked through
    held_out_median: float  # of real pictures that weren't trained on
    samples_median: float
    near: float  # share of the samples nearer than 99 % of the held-out ones are; 0.01 by chance
    nearest: list[dict[str, object]]  # of each sample


def memorised(held_out: Tensor, samples: Tensor, where: list[Place], train: int) -> Memory:
    """From the distances of both to their nearest training pictures, and where those of samples are."""
    near = float((samples < torch.quantile(held_out, NEAR)).double().mean())
    rows: list[dict[str, object]] = [
        {"shard": place.shard, "key": place.key, "distance": distance}
        for place, distance in zip(where, samples.tolist(), strict=True)
    ]
    return Memory(train, float(held_out.median()), float(samples.median()), near, rows)
