"""Train a VAE: `accelerate launch -m dvae.train RECIPE.toml [key=value …]`.

The loss of a step is the sum over the global batch over the true number of its pictures, whatever
the number of processes and micro-batches (design contract 2). Everything drawn is keyed by sample,
so a run that is resumed is the run that wasn't interrupted.
"""

import argparse
import contextlib
import math
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dvae.audit import audit_gradients, audit_terms
from dvae.config import Config
from dvae.errors import exit_code_of
from dvae.files import locked
from dvae.gradients import find_gradients
from dvae.guard import (
    check_game,
    count_good,
    forget_later,
    is_odd,
    leave_out,
    note_good,
    what_is_wrong,
)
from dvae.heartbeat import Heartbeat
from dvae.losses import kl_weight, steered
from dvae.milestones import finish, measure, save
from dvae.optim import learning_rate, set_learning_rate
from dvae.out_of_memory import telling_memory
from dvae.preflight import preflight
from dvae.recipe import load_config
from dvae.session import (
    Run,
    as_tensor,
    claim_folder,
    say,
    set_up,
    start_accelerator,
)
from dvae.signals import StopRequest, die_with_launcher
from dvae.world import keep_group

SCALE_DECAY = 0.9  # of the running error behind the optimal scale


class Totals(NamedTuple):
    """Sums over a global batch, equal on all processes."""

    error: float
    nll: float  # nats
    kl: float
    kl_paid: float  # with free bits
    perceptual: float  # weighted, nats
    adversarial: float  # weighted, nats
    broken: float  # processes whose gradient isn't finite, or is a spike
    stop: float  # processes that were asked to stop


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
    parser.add_argument(
        "--accept-new-data",
        action="store_true",
        help="go on with shards that changed since the run began, in a new epoch",
    )
    given = parser.parse_args(arguments)
    return exit_code_of(
        lambda: train(
            load_config(given.recipe, given.overrides), given.resume, given.accept_new_data
        )
    )


def train(config: Config, may_resume: bool = True, accept_new_data: bool = False) -> int:
    """Train, or go on training, what a recipe describes; returns the exit code.

    Raises:
        UserError: a recipe, shards, a run or a world that don't fit together.
    """
    die_with_launcher()
    accelerator = start_accelerator(config)
    rank, world_size, limits = accelerator.process_index, accelerator.num_processes, config.train
    with (
        Heartbeat(rank, world_size, limits.peer_timeout, limits.peer_slow) as heartbeat,
        telling_memory(config, world_size),
        contextlib.ExitStack() as stack,
    ):
        streams = preflight(config, accelerator)
        if accelerator.is_main_process:
            stack.enter_context(locked(config.folder))
        claim_folder(config, accelerator, may_resume)
        run = set_up(config, accelerator, streams, heartbeat, accept_new_data)
        forget_later(run)
        stack.callback(run.saver.wait)
        if config.train.audit:
            audit_terms(run)
        request = StopRequest()
        loop(run, request)
        finish(run)
        heartbeat.stop()
        if world_size > 1:
            keep_group()
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
    first = state.step
    with (
        run.streams.training(
            state.step - state.first_step, rank, world_size, state.first_epoch
        ) as batches,
        tqdm(total=config.train.steps, initial=state.step, disable=quiet, mininterval=every) as bar,
    ):
        while state.step < config.train.steps:
            started = time.monotonic()
            run.heartbeat.enter("reading", state.step, is_own=True, shard=batches.waits_for)
            batch = next(batches)
            waited = time.monotonic() - started
            run.heartbeat.enter("counting the pictures", state.step)

            count = count_good(run, batch)
            rate = learning_rate(state.step, config.optim, config.train.steps)
            set_learning_rate(run.engine.optimizer, rate)
            beta = kl_weight(state.step, config.loss) * state.steering
            sums = find_gradients(run, batch, count, beta)
            if config.train.audit and count and state.step == first:
                audit_gradients(run)
            grad_norm = run.engine.clip() if count else 0.0
            totals = add_up(run, sums, grad_norm, request)

            paid = totals.nll + beta * totals.kl_paid + sum(totals[4:6])
            loss = paid / max(count, 1)  # nats per image
            wrong = what_is_wrong(run, loss, totals.broken)
            if count and not wrong:
                run.engine.step()
                follow(run, totals, count, rate)
                note_good(state, loss, grad_norm)
            else:
                leave_out(run, batch, count, wrong)
            run.engine.zero_grad()
            state.step += 1
            check_game(run)
            run.saver.check()

            bar.update()
            run.monitor.count(config.train.global_batch_size, waited)
            if count and state.step % config.train.log_every == 0:
                bar.set_postfix_str(f"{bits_per_dim(config, totals, count):.3f} bits/dim")
                also = {"loss": loss, "beta": beta, "lr": rate, "grad_norm": grad_norm}
                log(run, totals, count, also)
            improved = False
            if state.step % config.eval.every == 0 or state.step == config.train.steps:
                improved = measure(run)
            if improved or state.step % config.train.save_every == 0:
                save(run)
            if totals.stop:
                request.signal = request.signal or signal.SIGTERM
                return


def add_up(run: Run, sums: Tensor, grad_norm: float, request: StopRequest) -> Totals:
    """The sums over all processes, and what all of them must decide alike."""
    flags = as_tensor(run, [float(is_odd(run, grad_norm)), float(request.signal > 0)])
    return Totals(*run.accelerator.reduce(torch.cat([sums, flags]), "sum").tolist())


def follow(run: Run, totals: Totals, count: float, rate: float) -> None:
    """What follows the weights: their average, and the error that the optimal scale is taken from."""
    state = run.state
    if run.ema:
        run.ema.update(run.engine.parts(), state.step)
    if run.judges.adversary:
        run.judges.adversary.step(rate / run.config.optim.learning_rate)
    state.steering = steered(state.steering, totals.kl / count, state.step, run.config.loss)
    error = totals.error / (count * run.config.dims)
    keep = min(SCALE_DECAY, (1 + state.step) / (10 + state.step))
    before = error if state.mean_error is None else state.mean_error
    state.mean_error = keep * before + (1 - keep) * error


def log(run: Run, totals: Totals, count: float, also: dict[str, float]) -> None:
    """Write a step's loss and its terms, in nats per image."""
    values = {
        "nll": totals.nll / count,
        "kl": totals.kl / count,
        "sigma": run.scale,
        "bad_samples": float(run.state.bad_samples),
    }
    values |= run.judges.figures(
        totals.perceptual / count, totals.adversarial / count, run.state.step
    )
    if run.bare.is_variational:
        values["bits_per_dim"] = bits_per_dim(run.config, totals, count)
    run.monitor.scalars(values | also, run.state.step)
    steps = [*run.state.earlier, run.state.step - run.state.first_step]
    run.monitor.sources(run.streams.sources.drawn(*steps), run.state.step)


def bits_per_dim(config: Config, totals: Totals, count: float) -> float:
    """Of the mean bound of a global batch."""
    return (totals.nll + totals.kl) / (count * config.dims * math.log(2))


if __name__ == "__main__":
    sys.exit(main())
