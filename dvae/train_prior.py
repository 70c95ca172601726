"""Trains a flow prior on latents: flow matching on the linear path, in a loop of its own, one process.

The parts are the trainer's (Accelerate, optimizer, schedule, averaged weights, checkpoints), the order
of samples and every draw are its pure functions; what differs is that a sample is a row in memory.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from dvae.checkpoint import AVERAGE, NETWORK, OPTIMIZER, Checkpoints
from dvae.config import OptimConfig
from dvae.data.order import Order
from dvae.ema import Ema
from dvae.encode import Latents
from dvae.errors import NonFiniteError
from dvae.failpoint import failpoint
from dvae.files import write_json
from dvae.latents import keyed_normal
from dvae.optim import (
    learning_rate,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    set_learning_rate,
)
from dvae.prior import FlowConfig, FlowPrior
from dvae.resume import restored
from dvae.tensors import digest

LOSS_DECAY = 0.99  # of the running loss that is shown
FINGERPRINT = "fit.json"


class Rows(NamedTuple):
    """What a flow is fitted to, on the device."""

    mean: Tensor  # (N, *shape) of the posteriors, standardised
    std: Tensor  # (N, *shape) likewise
    labels: Tensor | None  # (N,) int64; `classes`: none
    classes: int


def train_flow(
    latents: Latents,
    config: FlowConfig,
    labels: Sequence[str],
    folder: Path,
    owner: str,
    device: torch.device,
) -> FlowPrior:
    """Train a flow prior; an unfinished training of the same goes on.

    Args:
        latents: of the training split.
        config: of the network and the training.
        labels: that the flow may be asked for; none: unconditional.
        folder: for its checkpoints; removed at the end.
        owner: the digest of the weights that the latents are of.
        device: to train on.
    """
    accelerator = Accelerator(
        cpu=device.type == "cpu", mixed_precision="bf16" if config.precision == "bf16" else "no"
    )
    batch_size = min(config.batch_size, len(latents.mean))
    torch.manual_seed(config.seed)
    prior = standardised(FlowPrior(latents.mean.shape[1:], config, labels), latents)
    prior.to(accelerator.device)
    rows = _rows(prior, latents)
    checkpoints = _claim(folder, config, labels, owner, latents)
    optim = OptimConfig(
        learning_rate=config.learning_rate,
        betas=(0.9, 0.95),
        warmup_steps=min(config.warmup_steps, config.steps // 2),
    )
    optimizer, ema = make_optimizer(prior.velocity, optim), Ema(parts(prior), config.ema)
    before = restored(checkpoints, prior.velocity, averages=True, is_main=True)
    state = before.state
    if before.network and before.average and before.optimizer:
        prior.velocity.load_state_dict(before.network)
        load_optimizer_tensors(prior.velocity, optimizer, before.optimizer)
        for name, part in ema.parts.items():
            part.copy_(before.average[name])
        tqdm.write(f"the flow's training goes on from step {state.step}")
    model, wrapped = accelerator.prepare(prior.velocity, optimizer)
    order = Order(np.array([len(rows.mean)]), config.seed, batch_size)

    shown: Tensor | None = None  # the running loss
    with tqdm(total=config.steps, initial=state.step, disable=None) as bar:
        while state.step < config.steps:
            set_learning_rate(wrapped, learning_rate(state.step, optim, config.steps))
            epochs, ids = order.draw(state.step, np.arange(batch_size))
            torch.manual_seed(config.seed + state.step)  # of dropout
            loss = flow_loss(model, rows, ids, epochs, config)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
            wrapped.step()
            wrapped.zero_grad()
            ema.update(parts(prior), state.step)
            state.step += 1

            bar.update()
            shown = loss.detach() if shown is None else shown.lerp(loss.detach(), 1 - LOSS_DECAY)
            if state.step % config.save_every == 0 or state.step == config.steps:
                _check_finite(shown, state.step)
                bar.set_postfix_str(f"loss {float(shown):.4f}")
                optimizer_state = optimizer_tensors(prior.velocity, optimizer)
                files = {NETWORK: prior.velocity.state_dict(), OPTIMIZER: optimizer_state}
                checkpoints.save(state, files | {AVERAGE: files[NETWORK] | ema.parts})
                failpoint("prior_saved")
    prior.velocity.load_state_dict(ema.parts, strict=False)  # buffers stay
    return prior.cpu().eval()


def parts(prior: FlowPrior) -> dict[str, Tensor]:
    """The weights that learn: live, not a copy."""
    return {name: value.detach() for name, value in prior.velocity.named_parameters()}


def flow_loss(
    model: nn.Module, rows: Rows, ids: np.ndarray, epochs: np.ndarray, config: FlowConfig
) -> Tensor:
    """The mean squared error of the velocity, of standardised latents (Lipman et al. 2023, equation 9).

    The posterior's draw, the noise, the time and whether the label is shown belong to (seed, epoch,
    row). Times are logit-normal (Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 3.1).
    """
    numbers = rows.mean[0].numel()
    places = torch.from_numpy(ids).to(rows.mean.device)
    drawn = keyed_normal(ids, (2 * numbers + 2,), config.seed, epochs, like=rows.mean)
    of_posterior, noise, time, chance = drawn.split([numbers, numbers, 1, 1], dim=1)
    mean, std = rows.mean[places], rows.std[places]
    z = mean + std * of_posterior.view_as(mean)
    noise = noise.view_as(z)
    t = time.sigmoid()[:, 0]  # (B,)
    share_of_z = t.view(-1, *(1,) * (z.ndim - 1))
    labels = None
    if rows.labels is not None:
        hidden = torch.special.ndtr(chance[:, 0]) < config.label_dropout
        labels = rows.labels[places].masked_fill(hidden, rows.classes)
    velocity = model((1 - share_of_z) * noise + share_of_z * z, t, labels)
    return (velocity.float() - (z - noise)).square().mean()


def standardised(prior: FlowPrior, latents: Latents) -> FlowPrior:
    """The prior with the mean and deviation of each channel of the aggregated posterior."""
    over = [0, *range(2, latents.mean.ndim)]
    mean = latents.mean.mean(over, keepdim=True)
    variance = ((latents.mean - mean).square() + latents.variance).mean(over)
    prior.mean.copy_(mean.view_as(prior.mean))
    prior.std.copy_(variance.sqrt().clamp(min=1e-6).view_as(prior.std))
    return prior


def _rows(prior: FlowPrior, latents: Latents) -> Rows:
    mean = (latents.mean.to(prior.mean) - prior.mean) / prior.std
    std = latents.variance.sqrt().to(prior.std) / prior.std
    if not prior.labels:
        return Rows(mean, std, None, 0)
    numbers = {label: number for number, label in enumerate(prior.labels)}
    labels = [numbers.get(label, len(numbers)) for label in latents.labels]
    return Rows(mean, std, torch.tensor(labels, device=mean.device), len(numbers))


def _claim(
    folder: Path,
    config: FlowConfig,
    labels: Sequence[str],
    owner: str,
    latents: Latents,
) -> Checkpoints:
    """The checkpoints of this very training; those of another one are removed."""
    what = {
        "weights": owner,
        "flow": config.model_dump(mode="json"),
        "labels": list(labels),
        "latents": digest({"mean": latents.mean}),
    }
    path = folder / FINGERPRINT
    if not path.is_file() or json.loads(path.read_text()) != what:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(path, what)
    return Checkpoints(folder / "checkpoints", keep=1)


def _check_finite(loss: Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise NonFiniteError(
            f"the prior's loss is {float(loss)} at step {step}: lower learning_rate, or take "
            "precision=fp32"
        )
