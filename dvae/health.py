"""What ails a run: each ailment a number, a threshold, and the key of the recipe to change.

The numbers come from an evaluation on held-out pictures and from the run's own record, so they stand in
TensorBoard while it trains (`health/…`) and are printed by `dvae health RUN SHARDS`.
"""

import math
import sys
from dataclasses import dataclass

from dvae.checkpoint import State
from dvae.config import LossConfig
from dvae.data.storage import Location
from dvae.evaluate import evaluate_weights
from dvae.find import state_of
from dvae.metrics import Evaluation
from dvae.weights import Weights

ACTIVE_SHARE = 0.05  # of the latent's numbers, below which the posterior has collapsed
HOLE = 0.1  # nats a number of z
RATE = 1.5  # nats a number of z
EFFECTIVE_BETA = 30.0
DETAIL = 0.25  # of the pictures' own
WON = 100  # steps in a row
LOSS_SCALE = 16.0  # of fp16; it begins at 65,536 and halves at each overflow


@dataclass(frozen=True)
class Record:
    """What a run notes of itself besides its evaluation; None: there is no such thing in it."""

    won: int | None = None  # steps in a row that the discriminator had won
    loss_scale: float | None = None  # of fp16


@dataclass(frozen=True)
class Finding:
    """One ailment, whether or not the run has it."""

    name: str
    value: float
    limit: float
    is_ill: bool
    number: str  # what the value is
    remedy: str  # the key to change

    def __str__(self) -> str:
        verdict = "ILL" if self.is_ill else "ok"
        line = f"{verdict:4}{self.name:24}{self.value:9.4g}  limit {self.limit:<6g} {self.number}"
        return f"{line}\n    -> {self.remedy}" if self.is_ill else line


def record_of(state: State | None) -> Record:
    """The record in a run's counters."""
    if state is None:
        return Record()
    won = state.standing.won if state.standing.steps else None
    return Record(won, float(state.loss_scale["scale"]) if state.loss_scale else None)


def diagnose(
    result: Evaluation, loss: LossConfig, scale: float, record: Record | None = None
) -> list[Finding]:
    """Look for every ailment that the numbers can show.

    Args:
        result: of held-out pictures.
        loss: what the run was trained by.
        scale: of its likelihood, grey levels.
        record: of the run.
    """
    record = record or Record()
    found = []
    if result.bits_per_dim is not None:
        found += [_collapse(result), *_holes(result)]
    if result.bits_per_dim is not None and not loss.rate:  # a steered beta is what the rate needs
        found.append(_over_regularised(result, loss, scale))
    found.append(_blurry(result, loss, scale))
    if record.won is not None:
        found.append(_discriminator(record.won))
    if record.loss_scale is not None:
        found.append(_overflow(record.loss_scale))
    return found


def report(weights: Weights, source: str, shards: Location, split: str, images: int) -> None:
    """Evaluate on held-out shards and print every finding; the ill ones with their remedy."""
    result = evaluate_weights(weights, shards, split, images)
    about = weights.about
    found = diagnose(result, about.loss, about.scale, record_of(state_of(source)))
    sys.stdout.write("\n".join(map(str, found)) + "\n")


def typical_error(result: Evaluation, loss: LossConfig, scale: float) -> float:
    """The root mean squared (Gaussian) or mean absolute error (Laplace) behind an nll, grey levels."""
    dims = result.dims
    if loss.likelihood == "gaussian":
        over = result.nll / dims - math.log(scale) - 0.5 * math.log(2 * math.pi)
        return scale * math.sqrt(max(0.0, 2 * over))
    return scale * max(0.0, result.nll / dims - math.log(2 * scale))


def effective_beta(result: Evaluation, loss: LossConfig, scale: float) -> float:
    """The KL's weight as if the likelihood had the scale of its errors.

    A fixed scale too small for the errors makes the KL nearly free; too large, a rule. With the scale
    of the errors themselves it is beta.
    """
    ratio = scale / max(typical_error(result, loss, scale), 1e-6)
    return loss.beta * (ratio**2 if loss.likelihood == "gaussian" else ratio)


def _collapse(result: Evaluation) -> Finding:
    share = result.active_units / result.latent_dim
    return Finding(
        "collapse",
        share,
        ACTIVE_SHARE,
        share < ACTIVE_SHARE,
        "share of the latent's numbers that say anything",
        "lower loss.beta, or let it rise slowly: loss.schedule=linear, loss.warmup_steps=…; or give "
        "each number some nats with loss.free_bits",
    )


def _holes(result: Evaluation) -> list[Finding]:
    remedy = "fit a prior (dvae fit-prior), raise loss.beta, or set loss.scale=optimal"
    rate = result.kl / result.latent_dim
    return [
        Finding(
            "prior hole",
            result.hole,
            HOLE,
            result.hole > HOLE,
            "nats a number between N(0, I) and all pictures' z",
            remedy,
        ),
        Finding(
            "prior hole by the rate",
            rate,
            RATE,
            rate > RATE,
            "nats a number of z: clouds too small to fill N(0, I), whatever their marginals",
            remedy,
        ),
    ]


def _over_regularised(result: Evaluation, loss: LossConfig, scale: float) -> Finding:
    beta = effective_beta(result, loss, scale)
    return Finding(
        "over-regularisation",
        beta,
        EFFECTIVE_BETA,
        beta > EFFECTIVE_BETA,
        "weight of the KL at the scale of the errors",
        "lower loss.beta, or set loss.scale=optimal where it is fixed above the errors",
    )


def _blurry(result: Evaluation, loss: LossConfig, scale: float) -> Finding:
    error = typical_error(result, loss, scale)
    if scale > 1.5 * error:
        remedy = (
            f"set loss.scale=optimal: {scale:.3g} grey levels are fixed, errors are {error:.3g}"
        )
    else:
        remedy = (
            "add loss.perceptual and adversarial.weight: squared errors alone average detail away"
        )
    return Finding(
        "blurry by likelihood",
        result.detail,
        DETAIL,
        result.detail < DETAIL,
        "fine detail of reconstructions, of the pictures'",
        remedy,
    )


def _discriminator(won: int) -> Finding:
    return Finding(
        "discriminator winning",
        won,
        WON,
        won > WON,
        "steps in a row at which it told real from made at will",
        "lower adversarial.learning_rate, or set adversarial.r1, adversarial.lecam or "
        "adversarial.augment=true",
    )


def _overflow(loss_scale: float) -> Finding:
    return Finding(
        "fp16 overflow",
        loss_scale,
        LOSS_SCALE,
        loss_scale < LOSS_SCALE,
        "loss scale: it halves at each overflow",
        "set train.precision=bf16",
    )
