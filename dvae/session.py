"""What a training run is made of: set up, resumed, measured, saved."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import Tensor, nn
from tqdm import tqdm

from dvae.checkpoint import Checkpoints, State, restore
from dvae.config import Config
from dvae.data.batches import Batch
from dvae.ema import Ema
from dvae.errors import CheckpointError, DataError, UserError
from dvae.files import damage, write_bytes
from dvae.losses import current_scale
from dvae.metrics import evaluate, exact_dtype
from dvae.models.blocks import LatentModel
from dvae.monitor import Monitor
from dvae.networks import build
from dvae.optim import make_optimizer
from dvae.pictures import to_network
from dvae.recipe import differences, parse_config, read_toml, to_toml
from dvae.streams import Streams
from dvae.weights import About, export

PEER_TIMEOUT = timedelta(minutes=10)  # a process that waits longer for the others ends
FIXED_PICTURES = 8  # of the reconstruction grid
BAD_SAMPLES = "bad_samples.jsonl"  # in the run's folder: every sample that couldn't be read
FIXED_SEED = 0  # of the latents that every sample grid decodes


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

    @property
    def published(self) -> LatentModel:
        """The network that is measured, sampled and exported."""
        return self.ema.model if self.ema else self.bare

    @property
    def scale(self) -> float:
        """Of the likelihood, in grey levels."""
        return current_scale(self.config.loss, self.state.mean_error)


def start_accelerator(config: Config) -> Accelerator:
    """Accelerate's view of the world, which must be the launcher's.

    Raises:
        UserError: it isn't, or the device doesn't know the precision.
    """
    precision = config.train.precision
    mixed = precision if precision in ("bf16", "fp16") else "no"
    try:
        accelerator = Accelerator(
            mixed_precision=mixed, kwargs_handlers=[InitProcessGroupKwargs(timeout=PEER_TIMEOUT)]
        )
    except ValueError as error:
        raise UserError(f"train.precision={precision} can't be used here: {error}") from None
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("train.precision=fp16 needs an accelerator: take bf16 or fp32 on a CPU")
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS is set and would scale the gradient again: unset "
            "it, and set train.micro_batch_size in the recipe"
        )
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
    started = any((config.folder / "checkpoints").glob("step-*"))
    if path.is_file() and started:
        if not may_resume:
            raise UserError(f"{config.folder} exists: choose another run.name, or let it resume")
        before = parse_config(read_toml(path), str(path))
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
    state = restore(path, model, ema, optimizer)
    checkpoints.last = state.step
    return state


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether a picture's output depends on the other pictures of its batch while training."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


def check_statistics(config: Config, model: nn.Module, world_size: int) -> None:
    """Refuse to split a batch whose statistics the network needs as a whole."""
    share = config.train.global_batch_size // world_size
    splits = world_size > 1 or 0 < config.train.micro_batch_size < share
    if splits and has_batch_statistics(model):
        raise UserError(
            f"model.name={config.model.name} normalises by the statistics of its batch, which a "
            "split batch doesn't have: train it with one process and train.micro_batch_size=0, "
            "or take model.name=resvae"
        )


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
    z = torch.randn(config.eval.grid**2, run.bare.latent_dim, generator=generator)
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


def _noting_bad(batches: Iterable[Batch], path: Path) -> Iterator[Batch]:
    """The same batches; what is bad in them is named once in a run's life, not at each evaluation."""
    for batch in batches:
        batch.append_bad(path, "val")
        yield batch


def save(run: Run) -> None:
    """Write a checkpoint and the weights folder, where they aren't there yet."""
    config, accelerator = run.config, run.accelerator
    if accelerator.is_main_process and run.state.step != run.checkpoints.last:
        if accelerator.scaler is not None:
            run.state.loss_scale = accelerator.scaler.state_dict()
        run.checkpoints.save(run.state, run.bare, run.ema, run.optimizer)
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


def as_tensor(run: Run, values: list[float]) -> Tensor:
    """A vector on the device, to be summed over the processes."""
    device = run.accelerator.device
    return torch.tensor(values, dtype=exact_dtype(device), device=device)


def say(run: Run, line: str) -> None:
    """Tell the user something, once, without breaking the progress bar."""
    if run.accelerator.is_main_process:
        tqdm.write(line)
