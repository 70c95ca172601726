"""The adversarial term: a discriminator that learns beside the VAE, and what it says of its pictures.

The term is weight * ramp * balance * D * g nats per image: g is the generator's loss, a mean over
patches; D = 3 H W; and the balance makes the gradients of likelihood and D * g at the reconstruction
equally long (Esser et al. 2021, https://arxiv.org/abs/2012.09841, equation 7, which takes them at the
last layer; at the picture no engine has to help). It is measured now and then, used after that step, moves
slowly and is bounded.

As every loss here, the discriminator's is the sum over the global batch over its count: gradients and
figures of all processes are added in one reduction, so it needs no wrapper (design contract 2).
"""

import math
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from dvae.augment import diff_augment
from dvae.checkpoint import Standing
from dvae.config import AdversarialConfig
from dvae.models.discriminator import Discriminator

BETAS = (0.5, 0.9)  # of its Adam
# A discriminator that is fooled has a short gradient: unbounded, the balance would then hand it the decoder.
LARGEST_BALANCE = 2.0
BALANCE_EVERY = 8  # steps between measurements of the balance
KEEP_BALANCE = 0.8  # a measurement, of its running geometric mean
KEEP = 0.99  # a step, of the running means
WON = 0.1  # of its loss by chance: below it the discriminator tells real from made at will
CHANCE = {"hinge": 2.0, "relativistic": math.log(2)}  # its loss where all logits are 0


class Pairs(NamedTuple):
    """A micro-batch as the discriminator sees it."""

    images: Tensor  # (B, 3, H, W) in [-1, 1]
    reconstructions: Tensor  # the same shape
    drawn: Tensor | None  # (B, 7) of `dvae.augment.draws`; None: nothing is changed
    weights: Tensor  # (B,), 0 for a bad picture


class Sums(NamedTuple):
    """Over the pictures of a global batch."""

    pictures: float
    loss: float
    real: float  # logits
    fake: float
    likelihood: float  # squared length of the gradient at the reconstructions
    g: float  # … of D * g


class Adversary:
    """A discriminator, its optimizer and its standing.

    Args:
        config: of the term.
        steps: of the whole run.
        discriminator: on its device.
        accelerator: adds up over the processes.
    """

    def __init__(
        self,
        config: AdversarialConfig,
        steps: int,
        discriminator: Discriminator,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.steps = config, steps
        self.discriminator, self.accelerator = discriminator, accelerator
        self.optimizer = torch.optim.Adam(
            discriminator.parameters(), lr=config.learning_rate, betas=BETAS
        )
        self.standing = Standing()
        self.begin()

    def begin(self) -> None:
        """Forget the gradients and figures of the step before."""
        self.optimizer.zero_grad()
        self.sums = next(self.discriminator.parameters()).new_zeros(len(Sums._fields))

    def ramp(self, step: int) -> float:
        """The share of its weight that the term has at a step: 0 until `start`, then up to 1."""
        begun = step - self.config.start * self.steps
        return min(1.0, max(0.0, begun / max(1.0, self.config.ramp * self.steps)))

    def term(self, pairs: Pairs, likelihood: Tensor, step: int) -> Tensor:
        """The generator's term, with its gradient to the reconstructions: (B,) nats.

        Args:
            pairs: what the generator made.
            likelihood: (B,) nats, all that the balance weighs g against.
            step: of the run.
        """
        if step < self.config.start * self.steps:
            return torch.zeros_like(likelihood)
        self.discriminator.requires_grad_(False)
        fake = self._logits(pairs.reconstructions, pairs.drawn)
        real = self._logits(pairs.images, pairs.drawn) if self.config.loss != "hinge" else None
        g = -fake.mean(1) if real is None else functional.softplus(real - fake).mean(1)
        if step % BALANCE_EVERY == 0:
            for place, term in ((4, likelihood), (5, pairs.images[0].numel() * g)):
                total = (term * pairs.weights).sum()
                (slope,) = torch.autograd.grad(total, pairs.reconstructions, retain_graph=True)
                self.sums[place] += slope.to(self.sums.dtype).square().sum()
        balance = self.standing.balance if self.config.adaptive else 1.0
        return self.config.weight * self.ramp(step) * balance * pairs.images[0].numel() * g

    def learn(self, pairs: Pairs, count: float, step: int) -> None:
        """Add a micro-batch's share to the gradient of the discriminator's loss.

        Args:
            pairs: what the generator made; it gets no gradient.
            count: pictures of the global batch.
            step: of the run.
        """
        self.discriminator.requires_grad_(True)
        made = pairs.reconstructions.detach()
        drawn = None if pairs.drawn is None else torch.cat([pairs.drawn, pairs.drawn])
        real, fake = self._logits(torch.cat([pairs.images, made]), drawn).chunk(2)  # (B, patches)
        loss = discriminator_loss(real, fake, self.config.loss)
        seen = [torch.ones_like(loss), loss, real.mean(1), fake.mean(1)]
        self.sums[:4] += (torch.stack(seen).detach() * pairs.weights).sum(1)
        loss = loss + self.config.lecam * self._lecam(seen[2], seen[3])
        if step % self.config.penalty_every == 0:  # so it weighs as much as if it were there always
            for gamma, images in ((self.config.r1, pairs.images), (self.config.r2, made)):
                if gamma:
                    penalty = self._squared_slope(images, pairs.drawn)
                    loss = loss + 0.5 * gamma * self.config.penalty_every * penalty
        ((loss * pairs.weights).sum() / count).backward()

    def step(self, rate: float) -> None:
        """Move the discriminator, once the global batch was seen; the same on all processes.

        Args:
            rate: of learning, over the configured one.
        """
        parameters = list(self.discriminator.parameters())
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        parts = [*slopes, self.sums]
        flat = self.accelerator.reduce(torch.cat([part.flatten() for part in parts]), "sum")
        *gradients, sums = flat.split([part.numel() for part in parts])
        if not torch.isfinite(flat).all():
            self.standing.skipped += 1
            return
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate
        self.optimizer.step()
        self.discriminator.iterate()
        self._stand(Sums(*sums.tolist()))

    def figures(self, step: int) -> dict[str, float]:
        """What is logged of the game."""
        standing = self.standing
        return {
            "balance": standing.balance,
            "adversarial_ramp": self.ramp(step),
            "discriminator_loss": standing.loss,
            "discriminator_real": standing.real,
            "discriminator_fake": standing.fake,
            "discriminator_won": float(standing.won),
            "discriminator_skipped": float(standing.skipped),
        }

    def has_won(self) -> bool:
        """Whether the discriminator has won for as many steps as the recipe allows."""
        return 0 < self.config.patience <= self.standing.won

    def _logits(self, images: Tensor, drawn: Tensor | None) -> Tensor:
        """(B, 3, H, W) -> (B, patches)."""
        if drawn is not None:
            images = diff_augment(images, drawn)
        return self.discriminator(images.to(self.sums.dtype)).flatten(1)

    def _lecam(self, real: Tensor, fake: Tensor) -> Tensor:
        """(B,) logits twice -> (B,): Tseng et al. 2021, https://arxiv.org/abs/2104.03310, equation 4."""
        standing = self.standing
        return (real - standing.fake).square() + (fake - standing.real).square()

    def _squared_slope(self, images: Tensor, drawn: Tensor | None) -> Tensor:
        """Of the logit, (B,): Mescheder et al. 2018, https://arxiv.org/abs/1801.04406, equation 9."""
        images = images.detach().requires_grad_()
        logit = self._logits(images, drawn).mean(1)
        (slope,) = torch.autograd.grad(logit.sum(), images, create_graph=True)
        return slope.square().flatten(1).sum(1)

    def _stand(self, sums: Sums) -> None:
        """Bring the standing up to date with a step's figures."""
        standing, count = self.standing, max(sums.pictures, 1.0)
        keep = min(KEEP, standing.steps / (standing.steps + 1))  # the plain mean at first
        for name in ("loss", "real", "fake"):
            value = getattr(sums, name) / count
            setattr(standing, name, keep * getattr(standing, name) + (1 - keep) * value)
        if sums.g > 0:
            measured = min(LARGEST_BALANCE, math.sqrt(sums.likelihood / sums.g))
            before = standing.balance or measured
            standing.balance = before**KEEP_BALANCE * measured ** (1 - KEEP_BALANCE)
        standing.steps += 1
        is_let_in = standing.steps > self.config.start * self.steps
        won = is_let_in and standing.loss < WON * CHANCE[self.config.loss]
        standing.won = standing.won + 1 if won else 0


def discriminator_loss(real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """What the discriminator minimises for each pair of a picture and its reconstruction.

    Args:
        real: (B, patches) logits.
        fake: the same of the reconstructions.
        kind: "hinge" (Lim & Ye 2017, https://arxiv.org/abs/1705.02894), each by itself, or
            "relativistic" (Jolicoeur-Martineau 2018, https://arxiv.org/abs/1807.00734; with R1 and R2
            that of R3GAN, Huang et al. 2024, https://arxiv.org/abs/2501.05441), one against the other.

    Returns:
        (B,), means over patches.
    """
    if kind == "hinge":
        return (functional.relu(1 - real) + functional.relu(1 + fake)).mean(1)
    return functional.softplus(fake - real).mean(1)
