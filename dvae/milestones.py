"""What a run does every so many steps: it measures itself, draws its grids, and saves."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from dvae.checkpoint import AVERAGE, NETWORK, OPTIMIZER, rival_files
from dvae.data.batches import Batch
from dvae.engine import Tensors
from dvae.errors import DataError
from dvae.files import damage
from dvae.health import diagnose, record_of
from dvae.metrics import evaluate
from dvae.networks import network_of
from dvae.resume import note_data
from dvae.session import BAD_SAMPLES, Run, as_tensor, say
from dvae.weights import About, export

FIXED_SEED = 0  # of the latents that every sample grid decodes


def measure(run: Run) -> bool:
    """Evaluate on the validation split and draw the grids; True if it is the best yet.

    Raises:
        DataError: more of its pictures are bad than `data.max_bad` allows.
    """
    config, state, accelerator = run.config, run.state, run.accelerator
    with run.streams.evaluation(accelerator.process_index, accelerator.num_processes) as batches:
        model = network_of(config.model, run.average())
        result = evaluate(
            model,
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
    run.monitor.pictures(model.eval(), run.fixed, z.to(run.fixed), config.eval.grid, state.step)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in state.metrics.items())
    say(run, f"step {state.step}: {shown}")
    objective = result.nll + config.loss.beta * state.steering * result.kl
    improved = state.best_loss is None or objective < state.best_loss
    if improved:
        state.best_step, state.best_loss = state.step, objective
    return improved


def save(run: Run) -> None:
    """Write a checkpoint and the weights folder, where they aren't there yet; all processes call this."""
    accelerator, state, is_main = run.accelerator, run.state, run.accelerator.is_main_process
    if state.step != run.checkpoints.last:
        if accelerator.scaler is not None:
            state.loss_scale = accelerator.scaler.state_dict()
        if not state.standing.won:
            state.good_step = state.step
        files = {NETWORK: run.engine.network(run.engine.parts(), keep=is_main)}
        if run.ema:
            files[AVERAGE] = run.average(keep=is_main)
        files[OPTIMIZER] = run.engine.optimizer_tensors(keep=is_main)
        if run.judges.rival:
            files |= rival_files(run.judges.rival)
        if is_main:
            note_data(state, run.streams.sources, run.checkpoints.folder)
            run.checkpoints.save(state, files)
            publish(run, files.get(AVERAGE, files[NETWORK]))
        run.checkpoints.last = state.step
    elif is_published_anew(run):  # an earlier life was killed before it came to this
        tensors = run.average(keep=is_main)
        if is_main:
            publish(run, tensors)
    accelerator.wait_for_everyone()


def is_published_anew(run: Run) -> bool:
    """Whether the weights folder is missing or damaged, which the main process tells the others."""
    lacks = run.accelerator.is_main_process and damage(run.config.folder / "weights")
    return bool(run.accelerator.reduce(as_tensor(run, [float(bool(lacks))]), "sum"))


def publish(run: Run, tensors: Tensors) -> None:
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
    export(config.folder / "weights", network_of(config.model, tensors), about)


def _noting_bad(batches: Iterable[Batch], path: Path) -> Iterator[Batch]:
    """The same batches; what is bad in them is named once in a run's life, not at each evaluation."""
    for batch in batches:
        batch.append_bad(path, "val")
        yield batch
