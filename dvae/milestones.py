"""What a run does every so many steps: it measures itself, draws its grids, and saves."""

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from dvae.checkpoint import AVERAGE, NETWORK, Parts, snapshot
from dvae.config import Config
from dvae.data.batches import Batch
from dvae.errors import DataError
from dvae.files import damage
from dvae.metrics import evaluate
from dvae.networks import build
from dvae.resume import note_data
from dvae.session import BAD_SAMPLES, Run, say
from dvae.weights import About, export, step_of

FIXED_SEED = 0  # of the latents that every sample grid decodes


def measure(run: Run) -> bool:
    """Evaluate on the validation split and draw the grids; True if it is the best yet.

    Raises:
        DataError: more of its pictures are bad than `data.max_bad` allows.
    """
    config, state, accelerator = run.config, run.state, run.accelerator
    with run.streams.evaluation(accelerator.process_index, accelerator.num_processes) as batches:
        result = evaluate(
            run.published,
            batches if state.metrics else _noting_bad(batches, config.folder / BAD_SAMPLES),
            config.loss,
            run.scale,
            config.train.seed,
            lambda sums: accelerator.reduce(sums.to(accelerator.device), "sum"),
        )
    planned = run.streams.held_out_count
    if planned - result.images > config.data.max_bad * planned:
        raise DataError(
            f"{planned - result.images} of {planned} validation pictures are bad, more than "
            f"data.max_bad={config.data.max_bad:g} allows: {config.folder / BAD_SAMPLES} names them; "
            "pack the data again, or raise the limit"
        )
    state.metrics, state.measured = result.summary(), state.step
    run.monitor.evaluation(result, state.step)
    generator = torch.Generator().manual_seed(FIXED_SEED)
    z = torch.randn(config.eval.grid**2, *run.bare.latent_shape, generator=generator)
    was_training = run.published.training
    run.published.eval()
    run.monitor.pictures(run.published, run.fixed, z.to(run.fixed), config.eval.grid, state.step)
    run.published.train(was_training)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in state.metrics.items())
    say(run, f"step {state.step}: {shown}")
    objective = result.nll + config.loss.beta * result.kl
    improved = state.best_loss is None or objective < state.best_loss
    if improved:
        state.best_step, state.best_loss = state.step, objective
    return improved


def save(run: Run) -> None:
    """Write a checkpoint and the weights folder; training waits until they are copied, no longer."""
    if not run.accelerator.is_main_process:
        return
    if run.accelerator.scaler is not None:
        run.state.loss_scale = run.accelerator.scaler.state_dict()
    if not run.state.standing.won:
        run.state.good_step = run.state.step
    state = copy.deepcopy(run.state)
    about = describe(run)
    parts = snapshot(run.bare, run.ema, run.optimizer, run.judges.rival)

    def write() -> None:
        note_data(state, run.streams.sources, run.checkpoints.folder)
        run.checkpoints.save(state, parts)
        publish(run.config, parts, about)

    run.saver.start(f"the checkpoint of step {state.step}", write)


def finish(run: Run) -> None:
    """Save the last step if that isn't done yet, and wait until everything is on the disk."""
    if run.accelerator.is_main_process:
        run.saver.wait()
        if run.state.step != run.checkpoints.last:
            save(run)
        elif not is_published(run):
            parts, about = snapshot(run.bare, run.ema, run.optimizer), describe(run)
            run.saver.start("the weights folder", lambda: publish(run.config, parts, about))
        run.saver.finish()
    run.accelerator.wait_for_everyone()


def describe(run: Run) -> About:
    """What the weights of this moment are."""
    config, state = run.config, run.state
    return About(
        config.model,
        config.loss,
        run.scale,
        state.step,
        dict(state.metrics),
        state.measured,
        config.model_dump(mode="json", exclude={"run"}),
    )


def publish(config: Config, parts: Parts, about: About) -> None:
    """Write the weights folder: the averaged weights, where there are any."""
    with torch.device("meta"):
        model = build(config.model)
    model.load_state_dict(parts.get(AVERAGE, parts[NETWORK]), assign=True)
    export(config.folder / "weights", model, about)


def is_published(run: Run) -> bool:
    """Whether the weights folder is whole and of this step: a run may be killed before it is."""
    folder = run.config.folder / "weights"
    return damage(folder) is None and step_of(folder) == run.state.step


def _noting_bad(batches: Iterable[Batch], path: Path) -> Iterator[Batch]:
    """The same batches; what is bad in them is named once in a run's life, not at each evaluation."""
    for batch in batches:
        batch.append_bad(path, "val")
        yield batch
