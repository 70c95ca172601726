"""Averaged weights: what is evaluated, sampled and published."""

import torch
from torch import Tensor


class Ema:
    """An exponential moving average of this process's part of the weights.

    The average is taken number by number, so that however an engine cuts the weights, the parts are
    those of the whole average. The decay is at most (1 + n) / (10 + n) after n updates, so that a short
    run isn't held back by its random start.
    """

    def __init__(self, parts: dict[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.parts = {name: part.detach().clone() for name, part in parts.items()}

    @torch.no_grad()
    def update(self, parts: dict[str, Tensor], updates: int) -> None:
        """Move the average towards the weights; `updates` counts those before this one."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        for name, averaged in self.parts.items():
            averaged.lerp_(parts[name].detach().to(averaged.dtype), 1 - decay)
