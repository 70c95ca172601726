"""Train a VAE: `accelerate launch -m dvae.train RECIPE.toml [key=value …]`.

The loss of a step is the sum over the global batch over the true number of its pictures, whatever
the number of processes and micro-batches (design contract 2). Everything drawn is keyed by sample,
so a run that is resumed is the run that wasn't interrupted.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import Tensor, nn
from tqdm import tqdm

from dvae.checkpoint import Checkpoints, State, restore
from dvae.config import Config
from dvae.data.batches import Batch
from dvae.ema import Ema
from dvae.errors import CheckpointError, DataError, NonFiniteError, UserError, exit_code_of
from dvae.files import locked, write_bytes
from dvae.losses import FIRST_SCALE, kl_weight, loss_terms, optimal_scale
from dvae.metrics import Evaluation, evaluate
from dvae.models.blocks import LatentModel
from dvae.monitor import Monitor
from dvae.networks import build
from dvae.noise import keyed_normal
from dvae.optim import learning_rate, make_optimizer, set_learning_rate
from dvae.pictures import batch_images, to_network
from dvae.recipe import differences, load_config, parse_config, to_toml
from dvae.signals import StopRequest
from dvae.streams import Streams, open_streams
from dvae.weights import About, export

PEER_TIMEOUT = timedelta(minutes=10)  # a process that waits longer for the others ends
FIXED_PICTURES = 8  # of the reconstruction grid
FIXED_SEED = 0  # of the latents that every sample grid decodes
SCALE_DECAY = 0.9  # of the running error behind the optimal scale


@dataclasses.dataclass
class Run:
    """What a run is made of."""

    config: Config
    accelerator: Accelerator
    streams: Streams
    model: nn.Module  # wrapped: only its forward synchronises gradients
    bare: LatentModel  # the same network, not wrapped
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    checkpoints: Checkpoints
    monitor: Monitor
    state: State
    fixed: Tensor  # (n, 3, S, S): the pictures of every reconstruction grid
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)  # of the last evaluation

    @property
    def published(self) -> LatentModel:
        """The network that is measured, sampled and exported."""
        return self.ema.model if self.ema else self.bare

    @property
    def scale(self) -> float:
        """Of the likelihood, in grey levels."""
        if self.config.loss.scale != "optimal":
            return self.config.loss.scale
        if self.state.mean_error is None:
            return FIRST_SCALE
        error = torch.tensor(self.state.mean_error, dtype=torch.float64)
        return float(optimal_scale(error, self.config.loss.likelihood))


class Totals(NamedTuple):
    """Sums over a global batch, equal on all processes."""

    error: float
    nll: float  # nats
    kl: float
    kl_paid: float
    broken: float  # processes whose gradient isn't finite
    stop: float  # the number of a signal that a process was sent


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dvae.train", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, help="a TOML file, as in configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as train.steps=100")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with a run of this name (the default)",
    )
    given = parser.parse_args(arguments)
    return exit_code_of(
        lambda: train(load_config(given.recipe, given.overrides), may_resume=given.resume)
    )


def train(config: Config, may_resume: bool = True) -> int:
    """Train, or go on training, what a recipe describes; returns the exit code.

    Raises:
        UserError: a recipe, shards, a run or a world that don't fit together.
    """
    request = StopRequest()
    accelerator = start_accelerator(config)
    streams = open_streams(config, accelerator.num_processes)
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(locked(config.folder))
        claim_folder(config, accelerator, may_resume)
        run = set_up(config, accelerator, streams)
        stack.callback(run.monitor.close)
        loop(run, request)
        save(run)
        if accelerator.num_processes > 1:
            accelerator.end_training()
    if run.state.step < config.train.steps:
        say(run, f"stopped after step {run.state.step}; run the same command again to go on")
        return 128 + request.signal
    say(run, f"done: {run.state.step} steps; weights in {config.folder / 'weights'}")
    return 0


def loop(run: Run, request: StopRequest) -> None:
    """Train until the last step, or until a process is asked to stop."""
    config, state, accelerator = run.config, run.state, run.accelerator
    rank, world_size = accelerator.process_index, accelerator.num_processes
    quiet = not accelerator.is_main_process
    every = 0.5 if sys.stderr.isatty() else 30.0  # seconds
    with (
        run.streams.training(state.step, rank, world_size) as batches,
        tqdm(total=config.train.steps, initial=state.step, disable=quiet, mininterval=every) as bar,
    ):
        while state.step < config.train.steps:
            started = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - started

            count = count_good(run, batch)
            rate = learning_rate(state.step, config.optim, config.train.steps)
            set_learning_rate(run.optimizer, rate)
            weight = beta(config, state.step)
            sums = forward_and_backward(run, batch, count, weight)
            grad_norm = clip(run)
            totals = add_up(run, sums, grad_norm, request)

            if is_finite(run, totals):
                run.optimizer.step()
                follow(run, totals, count)
            else:
                guard(run, batch)
            run.optimizer.zero_grad()
            state.step += 1

            bar.update()
            run.monitor.count(config.train.global_batch_size, waited)
            if state.step % config.train.log_every == 0:
                bar.set_postfix_str(f"{bits_per_dim(config, totals, count):.3f} bits/dim")
                log(run, totals, count, {"beta": weight, "lr": rate, "grad_norm": grad_norm})
            improved = False
            if state.step % config.eval.every == 0 or state.step == config.train.steps:
                improved = measure(run)
            if improved or state.step % config.train.save_every == 0:
                save(run)
            if totals.stop:
                request.signal = request.signal or int(totals.stop)
                return


def count_good(run: Run, batch: Batch) -> float:
    """The pictures of the global batch that could be read; notes the others.

    Raises:
        DataError: more are bad than `data.max_bad` allows.
    """
    config, state = run.config, run.state
    good = float(run.accelerator.reduce(as_tensor(run, [float(batch.weights.sum())]), "sum")[0])
    note_bad(config.folder, batch)
    state.bad_samples += config.train.global_batch_size - round(good)
    seen = max((state.step + 1) * config.train.global_batch_size, run.streams.order.samples)
    if state.bad_samples > config.data.max_bad * seen:
        raise DataError(
            f"{state.bad_samples} bad samples by step {state.step + 1} are more than "
            f"data.max_bad={config.data.max_bad:g} allows: {config.folder / 'bad_samples.jsonl'} "
            "names them; pack the data again, or raise the limit"
        )
    return max(good, 1.0)


def forward_and_backward(run: Run, batch: Batch, count: float, weight: float) -> Tensor:
    """Gradients of the mean loss of the global batch, in nats per number of a picture.

    Returns:
        This process's sums of error, nll, kl and kl_paid: (4,) float64.
    """
    config, accelerator = run.config, run.accelerator
    device, dtype = accelerator.device, next(run.bare.parameters()).dtype
    size = config.train.micro_batch_size or len(batch.ids)
    sums = as_tensor(run, [0.0] * 4)
    for start in range(0, len(batch.ids), size):
        part = slice(start, start + size)
        micro = dataclasses.replace(batch, images=batch.images[part], flips=batch.flips[part])
        images = batch_images(micro, device, dtype, config.train.channels_last)
        noise = keyed_normal(
            batch.ids[part], run.bare.latent_dim, config.train.seed, batch.epoch, device
        )
        weights = torch.from_numpy(batch.weights[part]).to(device)
        is_last = start + size >= len(batch.ids)
        with contextlib.nullcontext() if is_last else accelerator.no_sync(run.model):
            output = run.model(images, noise.to(device))
            terms = loss_terms(output, images, config.loss, run.scale)
            losses = (terms.nll + weight * terms.kl_paid) * weights
            # DDP takes the mean over the processes; the loss is a sum over them, so it is undone.
            mean = losses.sum() * (accelerator.num_processes / (count * config.dims))
            accelerator.backward(mean)
        each = torch.stack([terms.error, terms.nll, terms.kl, terms.kl_paid], dim=1).detach()
        sums += (each.to(sums.dtype) * weights[:, None].to(sums.dtype)).sum(0)
    return sums


def clip(run: Run) -> float:
    """Clip the global gradient; returns its norm before that."""
    limit = run.config.optim.max_grad_norm or math.inf
    return float(run.accelerator.clip_grad_norm_(run.model.parameters(), limit))


def add_up(run: Run, sums: Tensor, grad_norm: float, request: StopRequest) -> Totals:
    """The sums over all processes, and what all of them must decide alike."""
    flags = as_tensor(run, [float(not math.isfinite(grad_norm)), float(request.signal)])
    return Totals(*run.accelerator.reduce(torch.cat([sums, flags]), "sum").tolist())


def is_finite(run: Run, totals: Totals) -> bool:
    """Whether the optimizer may move; with fp16 an overflowing gradient is the loss scaler's affair."""
    broken = totals.broken and run.accelerator.scaler is None
    return not broken and math.isfinite(totals.nll + totals.kl)


def guard(run: Run, batch: Batch) -> None:
    """What the recipe says of a loss that isn't finite: stop here, or leave the step out."""
    if run.config.train.guard == "skip":
        say(run, f"step {run.state.step + 1} left out: its loss or gradient is not finite")
        return
    raise NonFiniteError(
        f"the loss or its gradient is not finite at step {run.state.step + 1} (epoch {batch.epoch}, "
        f"samples {batch.ids[:8].tolist()} … on process {run.accelerator.process_index}): lower "
        "optim.learning_rate, set optim.max_grad_norm, or leave such steps out with "
        "train.guard=skip; the last checkpoint is whole"
    )


def follow(run: Run, totals: Totals, count: float) -> None:
    """What follows the weights: their average, and the error that the optimal scale is taken from."""
    state = run.state
    if run.ema:
        run.ema.update(run.bare, state.step)
    error = totals.error / (count * run.config.dims)
    keep = min(SCALE_DECAY, (1 + state.step) / (10 + state.step))
    before = error if state.mean_error is None else state.mean_error
    state.mean_error = keep * before + (1 - keep) * error


def log(run: Run, totals: Totals, count: float, also: dict[str, float]) -> None:
    """Write a step's loss and its terms, in nats per image."""
    values = {
        "loss": (totals.nll + totals.kl) / count,
        "nll": totals.nll / count,
        "kl": totals.kl / count,
        "bits_per_dim": bits_per_dim(run.config, totals, count),
        "sigma": run.scale,
        "bad_samples": float(run.state.bad_samples),
    }
    run.monitor.scalars(values | also, run.state.step)


def measure(run: Run) -> bool:
    """Evaluate on the validation split and draw the grids; True if it is the best yet."""
    config, state, accelerator = run.config, run.state, run.accelerator
    with run.streams.evaluation(accelerator.process_index, accelerator.num_processes) as batches:
        result = evaluate(
            run.published,
            batches,
            config.loss,
            run.scale,
            config.train.seed,
            lambda sums: accelerator.reduce(sums.to(accelerator.device), "sum"),
        )
    run.metrics = summary(result)
    run.monitor.evaluation(result, state.step)
    generator = torch.Generator().manual_seed(FIXED_SEED)
    z = torch.randn(config.eval.grid**2, run.bare.latent_dim, generator=generator)
    was_training = run.published.training
    run.published.eval()
    run.monitor.pictures(run.published, run.fixed, z.to(run.fixed), config.eval.grid, state.step)
    run.published.train(was_training)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in run.metrics.items())
    say(run, f"step {state.step}: {shown}")
    objective = result.nll + beta(config, config.train.steps) * result.kl
    improved = state.best_loss is None or objective < state.best_loss
    if improved:
        state.best_step, state.best_loss = state.step, objective
    return improved


def save(run: Run) -> None:
    """Write a checkpoint and the weights folder, where they aren't there yet."""
    config, accelerator = run.config, run.accelerator
    if accelerator.is_main_process and run.state.step not in run.checkpoints.names():
        if accelerator.scaler is not None:
            run.state.loss_scale = accelerator.scaler.state_dict()
        run.checkpoints.save(run.state, run.bare, run.ema, run.optimizer)
        recipe = config.model_dump(mode="json", exclude={"run"})
        about = About(
            config.model, config.loss, run.scale, run.state.step, dict(run.metrics), recipe
        )
        export(config.folder / "weights", run.published, about)
    accelerator.wait_for_everyone()


def start_accelerator(config: Config) -> Accelerator:
    """Accelerate's view of the world, which must be the launcher's.

    Raises:
        UserError: it isn't, or the device doesn't know the precision.
    """
    precision = config.train.precision
    mixed = {"bf16": "bf16", "fp16": "fp16"}.get(precision, "no")
    try:
        accelerator = Accelerator(
            mixed_precision=mixed, kwargs_handlers=[InitProcessGroupKwargs(timeout=PEER_TIMEOUT)]
        )
    except ValueError as error:
        raise UserError(f"train.precision={precision} can't be used here: {error}") from None
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise UserError(
            f"{launched} processes were launched and each sees {accelerator.num_processes}: on a "
            "machine without a GPU set ACCELERATE_USE_CPU=true before accelerate launch --multi_gpu"
        )
    return accelerator


def claim_folder(config: Config, accelerator: Accelerator, may_resume: bool) -> None:
    """Write the run's recipe, or check that the run which is there has the same one."""
    path = config.folder / "config.toml"
    if path.is_file():
        if not may_resume:
            raise UserError(f"{config.folder} exists: choose another run.name, or let it resume")
        import tomllib

        before = parse_config(tomllib.loads(path.read_text()), str(path))
        differ = differences(before, config)
        if differ:
            raise UserError(
                f"{config.folder} holds a run of another recipe: {'; '.join(differ)}: choose "
                "another run.name, or give the run's own recipe"
            )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_bytes(path, to_toml(config).encode())
    accelerator.wait_for_everyone()


def set_up(config: Config, accelerator: Accelerator, streams: Streams) -> Run:
    """Build everything, and restore it from the newest whole checkpoint if there is one."""
    torch.manual_seed(config.train.seed)
    bare = build(config.model)
    check_statistics(config, bare, accelerator.num_processes)
    if config.train.precision == "fp64":
        bare.double()
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    bare.to(accelerator.device).to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = make_optimizer(bare, config.optim)
    ema = Ema(bare, config.optim.ema) if config.optim.ema else None
    checkpoints = Checkpoints(config.folder / "checkpoints", config.train.keep)
    state = resume(checkpoints, bare, ema, optimizer, accelerator)
    if state.data and state.data != streams.split.digest:
        raise CheckpointError(
            f"{config.folder} was trained on other shards than {config.data.train} holds now: "
            "choose another run.name, or bring the shards back"
        )
    state.data = streams.split.digest
    model, wrapped = accelerator.prepare(bare, optimizer)
    if state.loss_scale and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state.loss_scale)
    fixed = to_network(
        streams.fixed(FIXED_PICTURES), accelerator.device, next(bare.parameters()).dtype
    )
    model.train()
    folder = config.folder / "tensorboard"
    monitor = Monitor(folder, state.step, accelerator.is_main_process)
    if state.step == 0:
        monitor.text(to_toml(config), dataclasses.asdict(state), 0)
    return Run(
        config, accelerator, streams, model, bare, wrapped, ema, checkpoints, monitor, state, fixed
    )


def resume(
    checkpoints: Checkpoints,
    model: nn.Module,
    ema: Ema | None,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> State:
    """The state of the newest whole checkpoint, loaded; a new one where there is none."""
    if accelerator.is_main_process:
        checkpoints.clean()
    path, passed = checkpoints.newest()
    if accelerator.is_main_process:
        for line in passed:
            tqdm.write(f"{line}; using {path.name if path else 'none'}")
    if path is None:
        if passed:
            raise CheckpointError("; ".join(passed) + ": none is left; choose another run.name")
        return State()
    return restore(path, model, ema, optimizer)


def check_statistics(config: Config, model: nn.Module, world_size: int) -> None:
    """Refuse to split a batch whose statistics the network needs as a whole."""
    share = config.train.global_batch_size // world_size
    splits = world_size > 1 or 0 < config.train.micro_batch_size < share
    if splits and any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()
    ):
        raise UserError(
            f"model.name={config.model.name} normalises by the statistics of its batch, which a "
            "split batch doesn't have: train it with one process and train.micro_batch_size=0, "
            "or take model.name=resvae"
        )


def note_bad(folder: Path, batch: Batch) -> None:
    """Append this process's bad samples to the run's list."""
    if not batch.bad:
        return
    where = {"epoch": batch.epoch, "step": batch.step}
    lines = [
        json.dumps({**where, "sample": bad.sample, **vars(bad.place), "reason": bad.reason}) + "\n"
        for bad in batch.bad
    ]
    with (folder / "bad_samples.jsonl").open("a") as file:
        file.write("".join(lines))  # one write: lines of several processes don't mix


def summary(result: Evaluation) -> dict[str, float]:
    """What is said of an evaluation in a line, a table and the model card."""
    chosen = {
        "psnr": result.psnr,
        "ssim": result.ssim,
        "bits_per_dim": result.bits_per_dim,
        "kl": result.kl,
        "active_units": float(result.active_units),
    }
    return {name: value for name, value in chosen.items() if value is not None}


def beta(config: Config, step: int) -> float:
    """The weight of the KL term at a step."""
    loss = config.loss
    return kl_weight(step, loss.beta, loss.schedule, loss.warmup_steps, loss.cycle_steps)


def bits_per_dim(config: Config, totals: Totals, count: float) -> float:
    """Of the mean bound of a global batch."""
    return (totals.nll + totals.kl) / (count * config.dims * math.log(2))


def as_tensor(run: Run, values: list[float]) -> Tensor:
    """A vector on the device, in float64 where it has that."""
    device = run.accelerator.device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.tensor(values, dtype=dtype, device=device)


def say(run: Run, line: str) -> None:
    """Tell the user something, once, without breaking the progress bar."""
    if run.accelerator.is_main_process:
        tqdm.write(line)


if __name__ == "__main__":
    sys.exit(main())
