"""The first step, looked at: what the loss reaches, what has a gradient, what all processes hold alike.

`audit_terms` asks of a copy of the network, for each term of the loss alone, whether a gradient comes to
each parameter that it should come to: nll, perceptual and adversarial term go through the decoder to the
encoder, kl to the encoder. Where weights are zero, which hides what lies behind them, the copy has noise.
`audit_gradients` looks at the step itself before the weights move. Neither changes a number of the run.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from accelerate.utils import broadcast
from torch import Tensor

from dvae.data.batches import Batch
from dvae.errors import UserError
from dvae.latents import keyed_normal
from dvae.losses import loss_terms
from dvae.models.blocks import LatentModel
from dvae.networks import network_of
from dvae.preflight import agree
from dvae.session import Run
from dvae.tensors import digest

NOISE = 0.02  # standard deviation of what takes the place of zeros
DIGITS = 14  # of a digest, hexadecimal: 56 bits
SHOWN = 3  # parameters of a message
REMEDY = "mend the network or its loss; train.audit=false doesn't look"


def audit_terms(run: Run) -> None:
    """Look before the first step of a process's life; all processes call this.

    Raises:
        UserError: on all processes, naming the term and the parameters.
    """
    encoder = _under(run.bare, run.bare.encoder_parts)
    meant = encoder if run.config.train.decoder_only else set()  # to stay as they are
    frozen = [n for n, p in run.bare.named_parameters() if not p.requires_grad and n not in meant]
    faults = []
    if frozen:
        faults.append(f"{_listed(frozen)} can't learn: requires_grad is False: {REMEDY}")
    copy = _copy(run)
    names = [n for n, p in run.bare.named_parameters() if p.requires_grad]
    parameters = [copy.get_parameter(name) for name in names]
    # An old network's z may be out of logvar's range, where nothing passes.
    is_new = run.state.step == 0 and not run.config.train.start
    for term, value in _terms(run, copy).items():
        reached = _reached(value, parameters, is_new and term != "adversarial")  # may weigh 0 yet
        missed = [n for n, is_reached in zip(names, reached, strict=True) if not is_reached]
        missed = [n for n in missed if term != "kl" or n in encoder]
        if missed:
            faults.append(
                f"the loss's term {term} gives no gradient to {_listed(missed)}: {REMEDY}"
            )
    game = run.judges.adversary
    unmoved = (
        [n for n, p in game.discriminator.named_parameters() if p.grad is None] if game else []
    )
    if unmoved:
        faults.append(f"the discriminator's loss gives no gradient to {_listed(unmoved)}: {REMEDY}")
    run.judges.begin()
    _agree(run, faults)


def audit_gradients(run: Run) -> None:
    """Look at the first step between backward and optimizer; all processes call this.

    Raises:
        UserError: on all processes, naming the parameters.
    """
    faults = []
    lacking = run.engine.without_gradient()
    if lacking:
        faults.append(f"the first step gave no gradient to {_listed(lacking)}: {REMEDY}")
    held = run.engine.replicas()
    own = _digests(held).to(run.accelerator.device)
    first = broadcast(own.clone())
    differ = [name for name, is_same in zip(held, own == first, strict=True) if not is_same]
    if differ:
        faults.append(f"{_listed(differ)} differ from process 0's: {REMEDY}")
    _agree(run, faults)


def _agree(run: Run, faults: list[str]) -> None:
    agree(run.accelerator, [(UserError.exit_code, fault) for fault in faults], {})


def _under(model: LatentModel, parts: tuple[str, ...]) -> set[str]:
    """The names of the parameters in some parts of a network."""
    names = (name for name, _ in model.named_parameters())
    return {name for name in names if name.startswith(tuple(f"{part}." for part in parts))}


@torch.no_grad()
def _copy(run: Run) -> LatentModel:
    """The network, whole, with noise where it has nothing but zeros."""
    whole = run.engine.network(run.engine.parts())
    copy = network_of(run.config.model, {name: value.clone() for name, value in whole.items()})
    generator = torch.Generator().manual_seed(0)  # torch's own isn't touched
    for parameter in copy.parameters():
        if not parameter.any():
            parameter.copy_(NOISE * torch.randn(parameter.shape, generator=generator))
    return copy.requires_grad_(True).train()


def _terms(run: Run, copy: LatentModel) -> dict[str, Tensor]:
    """The terms of one validation picture's loss, without their weights and free bits."""
    images, one = run.fixed[:1], np.ones(1, np.float32)
    batch = Batch(0, 0, np.zeros(1, int), np.zeros(1, int), images, one > 0, one, ())
    noise = keyed_normal(batch.ids, copy.latent_shape, 0, 0, like=images)
    output = copy(images, noise)
    free = run.config.loss.model_copy(update={"free_bits": 0.0})
    terms = loss_terms(output, images, free, run.scale)
    found = {"nll": terms.nll}
    if copy.is_variational:
        found["kl"] = terms.kl_paid
    judges, last = run.judges, run.config.train.steps  # by then the adversary is let in
    judges.begin()
    alone = {
        "perceptual": dataclasses.replace(judges, adversary=None) if judges.seeing else None,
        "adversarial": dataclasses.replace(judges, seeing=None) if judges.adversary else None,
    }
    for column, (term, judge) in enumerate(alone.items()):
        if judge:
            judged = judge.terms(output.reconstruction, images, terms.nll, batch, 1.0, last)
            found[term] = judged[:, column]
    return found


def _reached(value: Tensor, parameters: Sequence[Tensor], by_numbers: bool) -> list[bool]:
    """Which parameters a gradient comes to; `by_numbers`: to matrices one that isn't zero.

    A bias before a norm may have none but zeros, rightly.
    """
    if not value.requires_grad:
        return [False] * len(parameters)
    slopes = torch.autograd.grad(value.sum(), parameters, retain_graph=True, allow_unused=True)
    return [
        slope is not None and (not by_numbers or slope.ndim < 2 or bool(slope.any()))
        for slope in slopes
    ]


def _digests(held: dict[str, Tensor | None]) -> Tensor:
    """(n,) int64, of each tensor; 0 where there's none."""
    found = [0 if t is None else int(digest({"": t})[:DIGITS], 16) for t in held.values()]
    return torch.tensor(found, dtype=torch.int64)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
