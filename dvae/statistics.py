"""BatchNorm by the statistics of the whole batch, however many processes share it (design contract 2).

torch's own SyncBatchNorm does so on GPUs only. Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn

AXES = (0, 2, 3)  # of (B, C, H, W), all but the channels


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose losses are added: so are the gradients that come back."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        whole = gradient.clone()
        distributed.all_reduce(whole)
        return whole


class SharedBatchNorm2d(nn.BatchNorm2d):
    """As `BatchNorm2d` of the pictures of all processes, some of which may have fewer, or none."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; in training mode all processes call this."""
        if not self.training:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        here = values.new_tensor([float(x.numel() // self.num_features)])
        sums = _Sum.apply(torch.cat([values.sum(AXES), here]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean[:, None, None]  # (B, C, H, W)
        variance = _Sum.apply(centred.square().sum(AXES)) / count
        self._follow(mean, variance * count / (count - 1).clamp(min=1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, which evaluation uses."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)
        self.num_batches_tracked += 1


def share_statistics(model: nn.Module) -> None:
    """Let a network's BatchNorms take the statistics of all processes; names and weights stay."""
    for part in model.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = SharedBatchNorm2d  # the same tensors, and optimizers know them
