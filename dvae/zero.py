"""DeepSpeed's ZeRO engines: their state, by the parameters' names and whole.

Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054. Imported only where DeepSpeed was launched.
"""

import contextlib
from typing import Any

import torch
from accelerate import Accelerator
from deepspeed.runtime.utils import combine_grad_norm_groups
from deepspeed.utils import (
    safe_get_full_grad,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
)
from deepspeed.utils.tensor_fragment import safe_set_local_optimizer_state
from torch import Tensor, distributed

from dvae.config import TrainConfig
from dvae.engine import Engine, autocast_forward
from dvae.tensors import Tensors

MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero(Engine):
    """ZeRO-1 and ZeRO-2: all weights on every process, a slice of the optimizer's state."""

    def prepare(self, train: TrainConfig) -> None:
        """Hand the network to DeepSpeed, with the batch and the limit that the recipe names."""
        autocast_forward(self.bare, train.precision, self.accelerator.device)
        settings = self.accelerator.state.deepspeed_plugin.deepspeed_config
        size = train.micro_batch(self.accelerator.num_processes)
        settings["train_micro_batch_size_per_gpu"] = size
        settings["gradient_clipping"] = self.max_grad_norm
        super().prepare(train)
        self.zero: Any = self.model.optimizer

    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """ZeRO-2 and 3 sum at every micro-batch, since nobody has room for a whole gradient."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """As of `Engine`; Accelerate's own would also step, before the norm is known."""
        self.model.set_gradient_accumulation_boundary(is_last)
        self.model.backward(loss)

    def clip(self) -> float:
        """The global gradient's norm; `step` clips by it."""
        return float(self.zero.scaled_global_norm())

    def step(self) -> None:
        """Clip, move, and forget the gradient."""
        self.model.step()

    def zero_grad(self) -> None:
        """`step` did it; where none was taken there was no gradient."""

    def without_gradient(self) -> list[str]:
        """As of `Engine`; all processes call this."""
        return [name for name, p in self.learning() if safe_get_full_grad(p) is None]

    def replicas(self) -> dict[str, Tensor | None]:
        """Weights and buffers; gradients are cut."""
        return {f"the weights of {name}": value for name, value in self.bare.state_dict().items()}

    def optimizer_tensors(self, keep: bool = True) -> Tensors:
        """Gather the state, a tensor at a time."""
        self.link_state()
        step = torch.as_tensor(self.zero.optimizer.state[self.slices()[0]]["step"])
        found: Tensors = {}
        for name, parameter in self.learning():
            moments = {m: safe_get_full_optimizer_state(parameter, m) for m in MOMENTS}
            if keep:
                fields = {"step": step.clone(), **moments}
                found |= {f"{name}/{field}": value.cpu() for field, value in fields.items()}
        return found

    def load_optimizer(self, tensors: Tensors) -> None:
        """Give each process its slice of the state."""
        steps = {float(value) for key, value in tensors.items() if key.endswith("/step")}
        if not steps:
            return
        inner = self.zero.optimizer
        is_torchs = type(inner).__module__.startswith("torch.")
        for flat in self.slices():
            count = torch.tensor(max(steps)) if is_torchs else int(max(steps))
            moments = {name: torch.zeros_like(flat) for name in MOMENTS}
            inner.state[flat] = {"step": count, **moments}
        self.link_state()
        for name, parameter in self.learning():
            for moment in MOMENTS:
                self.set_state(name, parameter, tensors[f"{name}/{moment}"], moment)

    def learning(self) -> list[tuple[str, Tensor]]:
        """The parameters that the optimizer moves."""
        return [(name, p) for name, p in self.bare.named_parameters() if p.requires_grad]

    def slices(self) -> list[Tensor]:
        """This process's flat slices of the weights, in fp32: what the optimizer moves."""
        return self.zero.single_partition_of_fp32_groups

    def link_state(self) -> None:
        """Let DeepSpeed find each parameter's part of the state.

        It does so by itself after the first group of parameters moved, and misses the others' (0.19.8).
        """
        self.zero._hp_optimizer_states_linked = False
        self.zero._lazy_init_hp_params_optimizer_state()

    def set_state(self, name: str, parameter: Tensor, whole: Tensor, field: str) -> None:
        """Set this process's slice of a parameter's state."""
        safe_set_full_optimizer_state(parameter, whole.to(parameter.device), field)


class Zero3(Zero):
    """ZeRO-3: a flat slice of each weight too, padded so that all processes hold as many numbers."""

    def clip(self) -> float:
        """The global gradient's norm; `step` clips by it."""
        return float(combine_grad_norm_groups(self.zero._get_norm_groups()))

    def replicas(self) -> dict[str, Tensor | None]:
        """Buffers only: what is cut is nobody else's."""
        return self.buffers()

    def parts(self) -> Tensors:
        """The flat slices: live, not copies."""
        return {name: self.slice_of(name) for name, _ in self.bare.named_parameters()}

    def slice_of(self, name: str) -> Tensor:
        """This process's flat slice of a parameter."""
        parameter: Any = self.bare.get_parameter(name)
        return parameter.ds_tensor

    def part_of(self, name: str, whole: Tensor) -> Tensor:
        """This process's slice of a whole tensor of a parameter's shape."""
        like = self.slice_of(name)
        flat = whole.new_zeros(like.numel() * self.accelerator.num_processes)
        flat[: whole.numel()] = whole.flatten()
        return flat.chunk(self.accelerator.num_processes)[self.accelerator.process_index].to(like)

    def whole(self, name: str, part: Tensor) -> Tensor:
        """All slices, without the padding, in the parameter's shape."""
        parameter: Any = self.bare.get_parameter(name)
        slices = [torch.empty_like(part) for _ in range(self.accelerator.num_processes)]
        distributed.all_gather(slices, part.contiguous())
        return torch.cat(slices)[: parameter.ds_numel].view(parameter.ds_shape)

    def slices(self) -> list[Tensor]:
        """This process's flat slices, in fp32."""
        return self.zero.fp32_partitioned_groups_flat

    def link_state(self) -> None:
        """ZeRO-3 finds the state by the slices."""

    def set_state(self, name: str, parameter: Tensor, whole: Tensor, field: str) -> None:
        """Set this process's slice of a parameter's state."""
        safe_set_local_optimizer_state(parameter, self.part_of(name, whole), field)


def make_zero(accelerator: Accelerator) -> type[Zero]:
    """The class of the stage that was launched."""
    stage = accelerator.state.deepspeed_plugin.zero_stage
    return Zero3 if stage == 3 else Zero
