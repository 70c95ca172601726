"""The engines that a launcher can put under a run: who holds which part of the weights.

| engine | a process holds | launch/ |
| --- | --- | --- |
| one process, DDP | all weights, all of the optimizer's state | single, cpu, multi_gpu, multi_node |
| FSDP2 | a slice of each weight and of its state, as a DTensor | fsdp2 |
| ZeRO-1, ZeRO-2 | all weights, a slice of the state | deepspeed_zero1, deepspeed_zero2 |
| ZeRO-3 | a flat slice of each weight and of its state | deepspeed_zero3 |

Every engine steps on the same global gradient, and gives and takes whole tensors by the network's own
names: a checkpoint of one goes on under any other. Under all of them the weights stay in the recipe's
precision; bf16 is autocast. FSDP: Zhao et al. 2023, https://arxiv.org/abs/2304.11277. ZeRO: Rajbhandari
et al. 2020, https://arxiv.org/abs/1910.02054.
"""

import contextlib
import math
from types import MethodType

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, convert_outputs_to_fp32
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor

from dvae.config import TrainConfig
from dvae.models.blocks import LatentModel, ResBlock
from dvae.optim import load_optimizer_tensors, optimizer_tensors
from dvae.tensors import Tensors


class Engine:
    """One process, or DDP: every process holds everything.

    Args:
        accelerator: of the run.
        bare: the network, on its device.
        optimizer: of its parameters, without state.
        train: names the micro-batch and the precision.
        max_grad_norm: the gradient is clipped to; 0 for never.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        bare: LatentModel,
        optimizer: torch.optim.Optimizer,
        train: TrainConfig,
        max_grad_norm: float,
    ) -> None:
        self.accelerator = accelerator
        self.bare = bare
        self.plain_optimizer = optimizer
        self.max_grad_norm = max_grad_norm or math.inf
        self.prepare(train)

    def prepare(self, train: TrainConfig) -> None:
        """Wrap the network and its optimizer."""
        self.model, self.optimizer = self.accelerator.prepare(self.bare, self.plain_optimizer)

    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """For the passes of a micro-batch: gradients are summed over the processes at the last one."""
        return contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add to the gradient; at the last micro-batch it becomes the mean over the processes."""
        self.accelerator.backward(loss)

    def sum_gradients(self) -> None:
        """What is left to sum over the processes after the last micro-batch: nothing."""

    def clip(self) -> float:
        """Clip the global gradient; returns its norm before that."""
        parameters = self.model.parameters()
        return float(self.accelerator.clip_grad_norm_(parameters, self.max_grad_norm))

    def step(self) -> None:
        """Let the optimizer move."""
        self.optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.optimizer.zero_grad()

    def without_gradient(self) -> list[str]:
        """The parameters that should learn and have no gradient after `backward`."""
        return [n for n, p in self.bare.named_parameters() if p.requires_grad and p.grad is None]

    def replicas(self) -> dict[str, Tensor | None]:
        """What every process must hold alike after `backward`, by a name for messages."""
        found: dict[str, Tensor | None] = {}
        for name, parameter in self.bare.named_parameters():
            found[f"the weights of {name}"] = parameter
            found[f"the gradients of {name}"] = parameter.grad
        return found | self.buffers()

    def buffers(self) -> dict[str, Tensor | None]:
        """Whole on every process under every engine, by a name for messages."""
        return {f"the buffer {name}": value for name, value in self.bare.named_buffers()}

    def parts(self) -> Tensors:
        """This process's part of each parameter: live, not a copy."""
        return {name: value.detach() for name, value in self.bare.named_parameters()}

    def part_of(self, name: str, whole: Tensor) -> Tensor:
        """This process's part of a whole parameter."""
        return whole

    def put(self, parts: Tensors, whole: Tensors) -> None:
        """Fill parts, of the weights or of their average, from whole parameters."""
        for name, part in parts.items():
            part.copy_(self.part_of(name, whole[name]))

    def whole(self, name: str, part: Tensor) -> Tensor:
        """A whole parameter from the parts of all processes, which all call this."""
        return part

    def network(self, parts: Tensors, keep: bool = True) -> Tensors:
        """A whole state_dict, of the weights or of their average; all processes call this.

        Args:
            parts: of the parameters, as of `parts`; buffers are the network's own.
            keep: False where this process only lends its parts: the result is empty.
        """
        buffers = dict(self.bare.named_buffers())
        found: Tensors = {}
        for name in self.bare.state_dict():
            value = buffers[name] if name in buffers else self.whole(name, parts[name])
            if keep:
                found[name] = value.detach()
        return found

    def optimizer_tensors(self, keep: bool = True) -> Tensors:
        """The optimizer's whole state by parameter name, as of `dvae.optim`; all processes call this."""
        return optimizer_tensors(self.bare, self.plain_optimizer)

    def load_optimizer(self, tensors: Tensors) -> None:
        """Give the optimizer what `optimizer_tensors` gave, under this or another engine."""
        load_optimizer_tensors(self.bare, self.plain_optimizer, tensors)


class LateDDP(Engine):
    """DDP without a wrapper: a process that ends a pass early, for want of memory, leaves none waiting."""

    def prepare(self, train: TrainConfig) -> None:
        """Give all processes the first one's network, as DDP does."""
        self.model = self.accelerator.prepare_model(self.bare, evaluation_mode=True)  # not wrapped
        self.optimizer = self.accelerator.prepare_optimizer(self.plain_optimizer)
        for tensor in self.bare.state_dict().values():
            distributed.broadcast(tensor, 0)

    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Nothing is summed in a pass."""
        return contextlib.nullcontext()

    def sum_gradients(self) -> None:
        """Take the gradients' mean over the processes."""
        gradients = [p.grad for p in self.bare.parameters() if p.grad is not None]
        waiting = [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
        for gradient, work in zip(gradients, waiting, strict=True):
            work.wait()
            gradient /= self.accelerator.num_processes


class FSDP2(Engine):
    """Weights, gradients and state are cut along their first dimension: `fully_shard`."""

    def prepare(self, train: TrainConfig) -> None:
        """Cut the network; half precision is autocast, as without cutting."""
        autocast_forward(self.bare, train.precision, self.accelerator.device)
        blocks = any(isinstance(part, ResBlock) for part in self.bare.modules())
        plugin = self.accelerator.state.fsdp_plugin  # a block's weights are gathered at a time
        plugin.transformer_cls_names_to_wrap = [ResBlock.__name__] if blocks else []
        super().prepare(train)

    def replicas(self) -> dict[str, Tensor | None]:
        """Buffers only: what is cut is nobody else's."""
        return self.buffers()

    def part_of(self, name: str, whole: Tensor) -> Tensor:
        """A DTensor like the parameter."""
        return _cut(whole, self.bare.get_parameter(name))

    def whole(self, name: str, part: Tensor) -> Tensor:
        """Gather a DTensor."""
        return part.full_tensor() if isinstance(part, DTensor) else part

    def optimizer_tensors(self, keep: bool = True) -> Tensors:
        """Gather the state, a tensor at a time."""
        found: Tensors = {}
        for name, value in super().optimizer_tensors().items():
            whole = self.whole(name, value)
            if keep:
                found[name] = whole
        return found

    def load_optimizer(self, tensors: Tensors) -> None:
        """Cut the state as its parameters are."""
        parameters = dict(self.bare.named_parameters())
        for key, value in tensors.items():
            name, _, field = key.rpartition("/")
            like = parameters[name]
            part = value.clone() if field == "step" else _cut(value.to(like.device), like)
            self.plain_optimizer.state[like][field] = part


def _cut(whole: Tensor, like: Tensor) -> Tensor:
    assert isinstance(like, DTensor)
    placed = whole.to(like.device)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)


def autocast_forward(model: LatentModel, precision: str, device: torch.device) -> None:
    """Let `forward` compute in the recipe's bf16 and give fp32, as Accelerate does without an engine.

    Left to themselves, FSDP2 casts its parameters and DeepSpeed the whole network: another loss curve.
    """
    if precision == "bf16":
        forward = torch.autocast(device.type, torch.bfloat16)(type(model).forward)
        model.forward = MethodType(convert_outputs_to_fp32(forward), model)


def make_engine(
    accelerator: Accelerator,
    bare: LatentModel,
    optimizer: torch.optim.Optimizer,
    train: TrainConfig,
    max_grad_norm: float,
) -> Engine:
    """The engine of the world that was launched, under the network and its optimizer."""
    kind: type[Engine] = Engine
    if accelerator.distributed_type == DistributedType.FSDP:
        kind = FSDP2
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        from dvae.zero import make_zero

        kind = make_zero(accelerator)
    elif train.micro_batch_size == "auto" and accelerator.num_processes > 1:
        kind = LateDDP
    return kind(accelerator, bare, optimizer, train, max_grad_norm)
