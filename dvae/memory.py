"""How many bytes a run's tensors have, told from tensors without numbers.

The network, its judges and a micro-batch are laid out as fake tensors: shapes on the meta device that
claim another one, as autocast needs. A forward pass over them tells what autograd keeps; nothing is
computed, so neither a GPU nor time is needed.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dvae.adversarial import BALANCE_EVERY, Adversary
from dvae.config import Config
from dvae.data.batches import Batch
from dvae.features.effnet_lite0 import EffNetLite0
from dvae.features.vgg16 import VGG16
from dvae.judges import Judges
from dvae.losses import loss_terms
from dvae.models.blocks import LatentModel, ResBlock
from dvae.models.discriminator import Discriminator
from dvae.networks import build, check_statistics

STEP = 4  # bytes of Adam's count of steps, one for each parameter
ADAM = 2  # moments of a number


@dataclass(frozen=True)
class Sizes:
    """Of a whole run on one process, in bytes."""

    weights: int  # buffers included
    gradients: int
    optimizer: int
    average: int
    judges: int  # the seeing network; the discriminator, its gradient, sum and optimizer
    rival: int  # the discriminator's gradient, which all processes sum
    picture: int  # kept for the backward pass, for each picture of a micro-batch
    once: int  # … and whatever its size
    root: int  # weights outside of the blocks that FSDP2 gathers one at a time
    block: int  # weights of the largest such block
    number: int  # bytes of a number


def check_network(config: Config, world_size: int) -> None:
    """Refuse a network that can't be trained on so many processes, as training does."""
    with _fake(config):
        check_statistics(config, build(config.model), world_size)


def find_sizes(config: Config) -> Sizes:
    """Lay out a run's tensors and add them up."""
    with _fake(config):
        bare, judges = _network(config), _judges(config)
        one, two = (kept_bytes(config, bare, judges, count) for count in (2, 3))
        game = judges.adversary
        rival = _bytes(game.discriminator.parameters()) if game else 0
        seen = _held(judges.seeing) if judges.seeing else 0
        played = _held(game.discriminator) + (2 + ADAM) * rival if game else 0
        learning = [p for p in bare.parameters() if p.requires_grad]
        blocks = [
            _bytes(part.parameters()) for part in bare.modules() if isinstance(part, ResBlock)
        ]
        all_weights = _bytes(bare.parameters())
        return Sizes(
            weights=_held(bare),
            gradients=_bytes(learning),
            optimizer=ADAM * _bytes(learning) + STEP * len(learning),
            average=all_weights if config.optim.ema else 0,
            judges=seen + played,
            rival=rival,
            picture=two - one,
            once=max(0, 3 * one - 2 * two),
            root=all_weights - sum(blocks),
            block=max(blocks, default=0),
            number=next(bare.parameters()).element_size(),
        )


def checkpoint_bytes(config: Config) -> int:
    """Of a checkpoint's tensors: the weights, their average and the optimizer's moments, twice two networks."""
    with _fake(config):
        bare, game = _network(config), _judges(config).adversary
        learning = [p for p in bare.parameters() if p.requires_grad]
        rival = (
            _held(game.discriminator) + ADAM * _bytes(game.discriminator.parameters())
            if game
            else 0
        )
        copies = 2 if config.optim.ema else 1
        return copies * _held(bare) + ADAM * _bytes(learning) + rival


@contextlib.contextmanager
def _fake(config: Config) -> Iterator[None]:
    """Tensors are fake, and new ones have the recipe's precision: fake weights can't be cast."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if config.train.precision == "fp64" else torch.float32)
    try:
        with FakeTensorMode():
            yield
    finally:
        torch.set_default_dtype(before)


def _network(config: Config) -> LatentModel:
    bare = build(config.model)
    if config.train.decoder_only:
        bare.freeze_encoder()
    return bare


def _judges(config: Config) -> Judges:
    """As of `dvae.judges.make_judges`, but without the seeing network's weights."""
    seeing: EffNetLite0 | VGG16 | None = None
    if config.loss.perceptual:
        seeing = VGG16() if config.loss.perceptual_network == "vgg16" else EffNetLite0()
        seeing.requires_grad_(False)
    game, adversary = config.adversarial, None
    if game.weight:
        rival = Discriminator(game.channels, game.layers, game.norm)
        nobody = cast(Any, None)  # to add up with: no step is taken
        adversary = Adversary(game, config.train.steps, rival, nobody)
    return Judges(config, seeing, adversary)


class _Kept:
    """What autograd keeps for the backward pass while `hooks` are on, weights apart."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.held = {_key(value) for part in modules for value in part.state_dict().values()}
        self.tensors: dict[int, Tensor] = {}

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors.values())

    def _pack(self, tensor: Tensor) -> Tensor:
        if _key(tensor) not in self.held:
            self.tensors.setdefault(_key(tensor), tensor)
        return tensor


def kept_bytes(config: Config, bare: LatentModel, judges: Judges, count: int) -> int:
    """Bytes that autograd keeps of a micro-batch of `count` pictures, weights apart.

    Half precision is counted as fp32, a bound: under autocast the networks here keep 0.5 of it, or up to
    0.84 where norms compute in fp32, as on a GPU.
    """
    dtype = next(bare.parameters()).dtype
    images = torch.empty(count, 3, bare.image_size, bare.image_size, dtype=dtype)
    noise = torch.empty(count, *bare.latent_shape, dtype=dtype)
    rival = judges.adversary.discriminator if judges.adversary else None
    kept = _Kept([part for part in (bare, judges.seeing, rival) if part is not None])
    with kept.hooks():
        output = bare(images, noise)
        terms = loss_terms(output, images, config.loss, 1.0)
        judges.begin()
        step, nll = _fullest(config), terms.nll
        judges.terms(output.reconstruction, images, nll, _batch(count), count, step)
    is_thrifty = getattr(config.model, "gradient_checkpointing", False)
    return kept.bytes() + (_largest_stage(config, images, noise) if is_thrifty else 0)


def _largest_stage(config: Config, images: Tensor, noise: Tensor) -> int:
    """Bytes that one stage keeps, at most: gradient checkpointing computes them again, one by one."""
    whole = build(config.model.model_copy(update={"gradient_checkpointing": False}))
    kept, before, sizes = _Kept([whole]), [0], [0]
    stages = [
        stage for part in whole.modules() if isinstance(part, nn.ModuleList) for stage in part
    ]
    for stage in stages:
        stage.register_forward_pre_hook(lambda *_: before.append(kept.bytes()))
        stage.register_forward_hook(lambda *_: sizes.append(kept.bytes() - before.pop()))
    with kept.hooks():
        whole(images, noise)
    return max(sizes)


def _fullest(config: Config) -> int:
    """A step at which the adversary does all that it ever does."""
    every = math.lcm(BALANCE_EVERY, config.adversarial.penalty_every)
    return math.ceil(config.adversarial.start * config.train.steps / every) * every


def _batch(count: int) -> Batch:
    ids, ones = np.arange(count), np.ones(count, np.float32)
    images = torch.empty(count, 1, 1, 3, dtype=torch.uint8)
    return Batch(0, 0, np.zeros(count, np.int64), ids, images, ones > 0, ones, ())


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # views of one storage count once


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _held(module: nn.Module) -> int:
    return _bytes(module.parameters()) + _bytes(module.buffers())
