"""Averaged weights: what is evaluated, sampled and published."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class Ema(Generic[Network]):
    """An exponential moving average of a network's weights; its buffers are copied.

    The decay is at most (1 + n) / (10 + n) after n updates, so that a short run isn't held back by
    its random start.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Network, updates: int) -> None:
        """Move the average towards the weights; `updates` counts those before this one."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        for averaged, new in zip(self.model.parameters(), model.parameters(), strict=True):
            averaged.lerp_(new.detach().to(averaged.dtype), 1 - decay)
        for copied, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)
