"""What a run does every so many steps: it measures itself, draws its grids, and saves."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from dvae.data.batches import Batch
from dvae.errors import DataError
from dvae.files import damage
from dvae.health import diagnose, record_of
from dvae.metrics import evaluate
from dvae.resume import note_data
from dvae.session import BAD_SAMPLES, Run, say
from dvae.weights import About, export

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
    run.monitor.health(diagnose(result, config.loss, run.scale, record_of(state)), state.step)
    generator = torch.Generator().manual_seed(FIXED_SEED)
    z = torch.randn(config.eval.grid**2, *run.bare.latent_shape, generator=generator)
    was_training = run.published.training
    run.published.eval()
    run.monitor.pictures(run.published, run.fixed, z.to(run.fixed), config.eval.grid, state.step)
    run.published.train(was_training)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in state.metrics.items())
    say(run, f"step {state.step}: {shown}")
    objective = result.nll + config.loss.beta * state.steering * result.kl
    improved = state.best_loss is None or objective < state.best_loss
    if improved:
        state.best_step, state.best_loss = state.step, objective
    return improved


def save(run: Run) -> None:
    """Write a checkpoint and the weights folder, where they aren't there yet."""
    config, accelerator = run.config, run.accelerator
    if accelerator.is_main_process and run.state.step != run.checkpoints.last:
        if accelerator.scaler is not None:
            run.state.loss_scale = accelerator.scaler.state_dict()
        note_data(run.state, run.streams.sources, run.checkpoints.folder)
        if not run.state.standing.won:
            run.state.good_step = run.state.step
        rival = run.judges.rival
        run.checkpoints.save(run.state, run.bare, run.ema, run.optimizer, rival)
        publish(run)
    elif accelerator.is_main_process and damage(config.folder / "weights"):
        publish(run)  # an earlier life was killed before it came to this
    accelerator.wait_for_everyone()


def publish(run: Run) -> None:
    """Write the weights folder."""
    config, state = run.config, run.state
    recipe = config.model_dump(mode="json", exclude={"run"})
    about = About(
        config.model,
        config.loss,
        run.scale,
        state.step,
        dict(state.metrics),
        state.measured,
        recipe,
    )
    export(config.folder / "weights", run.published, about)


def _noting_bad(batches: Iterable[Batch], path: Path) -> Iterator[Batch]:
    """The same batches; what is bad in them is named once in a run's life, not at each evaluation."""
    for batch in batches:
        batch.append_bad(path, "val")
        yield batch
