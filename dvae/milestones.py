"""What a run does every so many steps: it measures itself, draws its grids, and saves."""

import copy
from collections.abc import Iterable, Iterator

import torch

from dvae.checkpoint import AVERAGE, NETWORK, OPTIMIZER, on_host, rival_files
from dvae.config import Config
from dvae.data.batches import Batch
from dvae.errors import DataError
from dvae.files import damage
from dvae.find import describe
from dvae.health import diagnose, record_of
from dvae.metrics import evaluate
from dvae.models.blocks import LatentModel
from dvae.networks import network_of
from dvae.resume import note_data
from dvae.session import BAD_SAMPLES, Run, as_tensor, say
from dvae.tensors import Tensors
from dvae.weights import About, export, step_of

FIXED_SEED = 0  # of the latents that every sample grid decodes


def measure(run: Run) -> bool:
    """Evaluate on the validation split and draw the grids; True if it is the best yet.

    Raises:
        DataError: more of its pictures are bad than `data.max_bad` allows.
        RuntimeError: the pictures measured and the bad ones aren't the split.
    """
    config, state, accelerator = run.config, run.state, run.accelerator
    rank, world_size = accelerator.process_index, accelerator.num_processes
    with run.streams.evaluation(rank, world_size, run.micro_batch) as batches:
        run.heartbeat.enter("evaluating", state.step - 1, shard=batches.waits_for)
        model = network_of(config.model, run.average())
        result = evaluate(
            model,
            batches if state.metrics else _noting_bad(batches, run),
            config.loss,
            run.scale,
            config.train.seed,
            lambda sums: accelerator.reduce(sums.to(accelerator.device), "sum"),
        )
    planned = run.streams.held_out_count
    result.refuse_lost(planned)
    if result.bad > config.data.max_bad * planned:
        raise DataError(
            f"{result.bad} of {planned} validation pictures are bad, more than "
            f"data.max_bad={config.data.max_bad:g} allows: {config.folder / BAD_SAMPLES} names them; "
            "pack the data again, or raise the limit"
        )
    state.metrics, state.measured = result.summary(), state.step
    run.monitor.evaluation(result, state.step)
    run.monitor.health(diagnose(result, config.loss, run.scale, record_of(state)), state.step)
    draw(run, model)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in state.metrics.items())
    say(run, f"step {state.step}: {shown}")
    objective = result.nll + config.loss.beta * state.steering * result.kl
    improved = state.best_loss is None or objective < state.best_loss
    if improved:
        state.best_step, state.best_loss = state.step, objective
    return improved


def draw(run: Run, model: LatentModel) -> None:
    """Draw the grids; they are only looked at, so what goes wrong with them is told, and that is all."""
    columns = run.config.eval.grid
    generator = torch.Generator().manual_seed(FIXED_SEED)
    z = torch.randn(columns**2, *run.bare.latent_shape, generator=generator)
    try:
        run.monitor.pictures(model.eval(), run.fixed, z.to(run.fixed), columns, run.state.step)
    except Exception as error:  # noqa: BLE001 - whatever it is
        told = f"{type(error).__name__}: {error}"
        say(run, f"step {run.state.step}: no grids ({told}): training goes on")


def save(run: Run) -> None:
    """Write a checkpoint and the weights folder; training waits until they are copied, no longer.

    All processes call this: a weight may lie in parts on all of them.
    """
    accelerator, is_main = run.accelerator, run.accelerator.is_main_process
    run.heartbeat.enter("saving", run.state.step - 1)
    if accelerator.scaler is not None:
        run.state.loss_scale = accelerator.scaler.state_dict()
    if not run.state.standing.won:
        run.state.good_step = run.state.step
    files = {NETWORK: run.engine.network(run.engine.parts(), keep=is_main)}
    if run.ema:
        files[AVERAGE] = run.average(keep=is_main)
    files[OPTIMIZER] = run.engine.optimizer_tensors(keep=is_main)
    if not is_main:
        return
    if run.judges.rival:
        files |= rival_files(run.judges.rival)
    state, about, files = copy.deepcopy(run.state), describe(run.config, run.state), on_host(files)

    held_out = run.streams.held_out.reader.splits

    def write() -> None:
        note_data(state, run.streams.sources, held_out, run.checkpoints.folder)
        run.checkpoints.save(state, files)
        publish(run.config, files.get(AVERAGE, files[NETWORK]), about)

    run.saver.start(f"the checkpoint of step {state.step}", write)


def finish(run: Run) -> None:
    """Save the last step if that isn't done yet, and wait until everything is on the disk."""
    is_main = run.accelerator.is_main_process
    run.heartbeat.enter("finishing", run.state.step - 1)
    run.saver.wait()
    lacks = [
        float(is_main and run.state.step != run.checkpoints.last),
        float(is_main and not is_published(run)),  # a run may be killed before it is
    ]
    unsaved, unpublished = run.accelerator.reduce(as_tensor(run, lacks), "sum").tolist()
    if unsaved:
        save(run)
    elif unpublished:
        tensors = run.average(keep=is_main)
        if is_main:
            weights, about = on_host({AVERAGE: tensors})[AVERAGE], describe(run.config, run.state)
            run.saver.start("the weights folder", lambda: publish(run.config, weights, about))
    run.saver.finish()
    run.accelerator.wait_for_everyone()


def publish(config: Config, tensors: Tensors, about: About) -> None:
    """Write the weights folder."""
    export(config.folder / "weights", network_of(config.model, tensors), about)


def is_published(run: Run) -> bool:
    """Whether the weights folder is whole and of this step."""
    folder = run.config.folder / "weights"
    return damage(folder) is None and step_of(folder) == run.state.step


def _noting_bad(batches: Iterable[Batch], run: Run) -> Iterator[Batch]:
    """The same batches; what is bad in them is named once in a run's life, not at each evaluation."""
    for batch in batches:
        batch.append_bad(run.config.folder / BAD_SAMPLES, "val", run.state.step)
        yield batch
