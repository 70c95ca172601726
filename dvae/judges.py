"""Who judges the pictures besides the likelihood: a frozen network that sees, and an adversary."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from dvae.adversarial import Adversary, Pairs
from dvae.augment import draws
from dvae.checkpoint import Learner, State, restore_rival
from dvae.config import Config
from dvae.data.batches import Batch
from dvae.features.effnet_lite0 import EffNetLite0, load_effnet_lite0
from dvae.features.vgg16 import VGG16, load_vgg16
from dvae.models.discriminator import Discriminator


@dataclass
class Judges:
    """The judges of a run; each may be missing."""

    config: Config
    seeing: EffNetLite0 | VGG16 | None  # frozen
    adversary: Adversary | None

    @property
    def rival(self) -> Learner | None:
        """The discriminator and its optimizer, as checkpoints keep them."""
        one = self.adversary
        return (one.discriminator, one.optimizer) if one else None

    def restore(self, state: State, path: Path | None) -> None:
        """Take the game up where a checkpoint left it; `path` is None of a new run.

        Raises:
            CheckpointError: the checkpoint holds another discriminator, or none.
        """
        if self.adversary:
            self.adversary.standing = state.standing
        if self.rival and path:
            restore_rival(path, self.rival)

    def begin(self) -> None:
        """A new step: nothing has been judged in it."""
        if self.adversary:
            self.adversary.begin()

    def figures(self, perceptual: float, adversarial: float, step: int) -> dict[str, float]:
        """What is logged of them: mean weighted terms, nats per image, and how the game stands."""
        values = {}
        if self.seeing:
            values[f"perceptual_{self.seeing.name}"] = perceptual
        if self.adversary:
            values |= {"adversarial": adversarial} | self.adversary.figures(step)
        return values

    def terms(
        self,
        reconstructions: Tensor,
        images: Tensor,
        nll: Tensor,
        batch: Batch,
        count: float,
        step: int,
    ) -> Tensor:
        """The weighted perceptual and adversarial terms: (B, 2) nats; the adversary learns meanwhile.

        Args:
            reconstructions: (B, 3, H, W), get the gradients.
            images: the same shape, in [-1, 1].
            nll: (B,) nats.
            batch: the micro-batch that the pictures are of.
            count: pictures of the global batch.
            step: of the run.
        """
        perceptual, adversarial = torch.zeros_like(nll), torch.zeros_like(nll)
        if self.seeing:
            loss = self.config.loss
            distance = self.seeing.distance(reconstructions, images, loss.perceptual_size)
            perceptual = loss.perceptual * self.config.dims * distance
        if self.adversary:
            seed, weights = self.config.train.seed, torch.from_numpy(batch.weights).to(nll)
            drawn = None
            if self.config.adversarial.augment:
                drawn = draws(batch.ids, seed, batch.epochs, images)
            pairs = Pairs(images, reconstructions, drawn, weights)
            adversarial = self.adversary.term(pairs, nll + perceptual, step)
            self.adversary.learn(pairs, count, step)
        return torch.stack([perceptual, adversarial], dim=1)


def make_judges(config: Config, accelerator: Accelerator, dtype: torch.dtype) -> Judges:
    """What a recipe asks for, on the device; the seeing network in float32 at least.

    Raises:
        UserError: the weights of the seeing network are missing.
    """
    seeing: EffNetLite0 | VGG16 | None = None
    if config.loss.perceptual:
        seeing = load_vgg16() if config.loss.perceptual_network == "vgg16" else load_effnet_lite0()
        seeing.to(accelerator.device, torch.promote_types(dtype, torch.float32))
    adversary = None
    game = config.adversarial
    if game.weight:
        discriminator = Discriminator(game.channels, game.layers, game.norm)
        discriminator.to(accelerator.device, dtype)
        adversary = Adversary(game, config.train.steps, discriminator, accelerator)
    return Judges(config, seeing, adversary)
