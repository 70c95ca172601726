"""What a training run is made of, and how it is set up."""

import dataclasses
import os
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import DistributedType
from torch import Tensor
from tqdm import tqdm

from dvae.checkpoint import Checkpoints, State
from dvae.config import Config
from dvae.data.location import shown
from dvae.ema import Ema
from dvae.engine import Engine, make_engine
from dvae.engine_checks import check_engine, engine_asked_for
from dvae.errors import UserError
from dvae.files import remove_unfinished, write_bytes
from dvae.find import load
from dvae.heartbeat import Heartbeat
from dvae.judges import Judges, make_judges
from dvae.losses import current_scale
from dvae.metrics import exact_dtype
from dvae.models.blocks import LatentModel
from dvae.monitor import Monitor
from dvae.networks import build, check_statistics
from dvae.optim import make_optimizer
from dvae.pictures import to_network
from dvae.recipe import differences, parse_config, read_toml, to_toml
from dvae.resume import restored, settle_data
from dvae.saver import Saver
from dvae.statistics import share_statistics
from dvae.streams import Streams
from dvae.tensors import Tensors, mismatches
from dvae.world import join_again

TIMEOUT_MARGIN = 60  # seconds by which a collective's own timeout is later than the heartbeats'
FIXED_PICTURES = 8  # of the reconstruction grid
RECIPE = "config.toml"  # in the run's folder
BAD_SAMPLES = "bad_samples.jsonl"  # in the run's folder: every sample that couldn't be read


@dataclasses.dataclass
class Run:
    """What a run is made of."""

    config: Config
    accelerator: Accelerator
    streams: Streams
    engine: Engine  # holds the network and its optimizer
    ema: Ema | None
    checkpoints: Checkpoints
    saver: Saver
    monitor: Monitor
    state: State
    judges: Judges
    heartbeat: Heartbeat
    fixed: Tensor  # (n, 3, S, S): the pictures of every reconstruction grid
    micro_batch: int  # pictures that a process takes through the network at a time

    @property
    def bare(self) -> LatentModel:
        """The network, not wrapped: only a wrapped one's forward synchronises gradients."""
        return self.engine.bare

    def average(self, keep: bool = True) -> Tensors:
        """The weights that are measured, sampled and exported, whole; all processes call this."""
        return self.engine.network(self.ema.parts if self.ema else self.engine.parts(), keep)

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
    mixed = precision if precision in ("bf16", "fp16") and not engine_asked_for() else "no"
    timeout = config.train.peer_timeout + TIMEOUT_MARGIN
    join_again(timeout)
    try:
        accelerator = Accelerator(
            mixed_precision=mixed,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))],
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
    check_engine(accelerator, config)
    return accelerator


def claim_folder(config: Config, accelerator: Accelerator, may_resume: bool) -> None:
    """Check that a run which is there has the same recipe, and clear away what it left unfinished."""
    path = config.folder / RECIPE
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
        remove_unfinished(config.folder)
        remove_unfinished(config.folder / "checkpoints")
    accelerator.wait_for_everyone()


def set_up(
    config: Config,
    accelerator: Accelerator,
    streams: Streams,
    heartbeat: Heartbeat,
    accept_new_data: bool = False,
) -> Run:
    """Build everything, and restore it from the newest whole checkpoint if there is one."""
    torch.manual_seed(config.train.seed)
    bare = build(config.model)
    check_statistics(config, bare, accelerator.num_processes)
    if accelerator.num_processes > 1:
        share_statistics(bare)
    if config.train.precision == "fp64":
        bare.double()
    flat = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    last = config.train.channels_last and not flat  # engines cut what is contiguous
    layout = torch.channels_last if last else torch.contiguous_format
    bare.to(accelerator.device).to(memory_format=layout)  # type: ignore[call-overload]
    checkpoints = Checkpoints(
        config.folder / "checkpoints", config.train.keep, config.train.keep_every
    )
    if config.train.start and not checkpoints.names():
        begin_from(config.train.start, bare)
    if config.train.decoder_only:
        bare.freeze_encoder()
    optimizer = make_optimizer(bare, config.optim)
    before = restored(checkpoints, bare, config.optim.ema > 0, accelerator.is_main_process)
    state = before.state
    judges = make_judges(config, accelerator, next(bare.parameters()).dtype)
    judges.restore(state, before.path)
    if before.network:
        bare.load_state_dict(before.network)
    take_data(config, accelerator, streams, checkpoints, state, accept_new_data)
    engine = make_engine(accelerator, bare, optimizer, config.train, config.optim.max_grad_norm)
    if before.optimizer:
        engine.load_optimizer(before.optimizer)
    ema = make_ema(engine, config.optim.ema, before.average)
    if state.loss_scale and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state.loss_scale)
    fixed = to_network(
        streams.fixed(FIXED_PICTURES), accelerator.device, next(bare.parameters()).dtype
    )
    engine.model.train()
    folder = config.folder / "tensorboard"
    monitor = Monitor(folder, state.step, accelerator.is_main_process)
    if state.step == 0:
        monitor.text(to_toml(config), dataclasses.asdict(state), 0)
    return Run(
        config=config,
        accelerator=accelerator,
        streams=streams,
        engine=engine,
        ema=ema,
        checkpoints=checkpoints,
        saver=Saver(config.train.async_save),
        monitor=monitor,
        state=state,
        judges=judges,
        heartbeat=heartbeat,
        fixed=fixed,
        micro_batch=config.train.micro_batch(accelerator.num_processes),
    )


def take_data(
    config: Config,
    accelerator: Accelerator,
    streams: Streams,
    checkpoints: Checkpoints,
    state: State,
    accept_new: bool,
) -> None:
    """Check that a run may go on with these data (`settle_data`), and then write its recipe."""
    held_out = streams.held_out.reader.splits
    if settle_data(state, streams.sources, held_out, checkpoints.folder, accept_new):
        checkpoints.last = None  # a finished run saves what it accepted
    if accelerator.is_main_process:
        write_bytes(config.folder / RECIPE, to_toml(config).encode())


def make_ema(engine: Engine, decay: float, saved: Tensors | None) -> Ema | None:
    """The average that a recipe asks for, beginning at the weights or at what was saved."""
    if not decay:
        return None
    ema = Ema(engine.parts(), decay)
    if saved:
        engine.put(ema.parts, saved)
    return ema


def begin_from(source: str, bare: LatentModel) -> None:
    """Give a new run's network the weights that `train.start` names.

    Raises:
        UserError: they are of another network.
    """
    tensors = load(source).model.state_dict()
    problems = mismatches(tensors, bare.state_dict())
    if problems:
        raise UserError(
            f"train.start={shown(source)} is of another network: {problems}: give the recipe its [model]"
        )
    bare.load_state_dict(tensors)


def as_tensor(run: Run, values: list[float]) -> Tensor:
    """A vector on the device, to be summed over the processes."""
    device = run.accelerator.device
    return torch.tensor(values, dtype=exact_dtype(device), device=device)


def say(run: Run, line: str) -> None:
    """Tell the user something, once, without breaking the progress bar."""
    if run.accelerator.is_main_process:
        tqdm.write(line)
