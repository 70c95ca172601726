"""The parts of a recipe: what to learn. Where to run is a matter of `launch/`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, model_validator

from dvae.data.formats import MAX_PIXELS
from dvae.data.location import shown
from dvae.model_config import ModelConfig
from dvae.schema import FREE, Channels, Count, Part, Positive

# A folder of shards, local or remote (dvae.data.location); written down without its secrets. A run may
# find its data elsewhere: their digest decides whether they are the same (dvae.resume).
Location = Annotated[str, PlainSerializer(shown)]


class SourceConfig(Part):
    """One of several folders of shards that are drawn together."""

    path: Location = Field(json_schema_extra=FREE)  # of shards; their split "train", or only one
    weight: float = Field(1.0, gt=0)  # its share is weight / the sum of all weights


class DataConfig(Part):
    """Where the shards are, and how a picture becomes a sample."""

    train: Location = Field("", json_schema_extra=FREE)  # of shards; split "train", or only one
    sources: tuple[SourceConfig, ...] = ()  # instead of train: several, in exact shares
    val: Location = Field("", json_schema_extra=FREE)  # "val", or only one; empty: train's
    window: Count = 0  # samples permuted together; 0: the whole data set, on a local disk
    crop_min: float = Field(1.0, gt=0, le=1)  # least side of the random crop, of the shorter side
    flip: bool = True  # mirror half of the pictures
    max_bad: float = Field(0.01, ge=0, le=1, json_schema_extra=FREE)  # share that stops a run
    bad_shards: Literal["stop", "skip"] = Field(  # at the start; what one lacks is a bad sample
        "stop", json_schema_extra=FREE
    )
    max_pixels: Positive = MAX_PIXELS
    verify: bool = Field(True, json_schema_extra=FREE)  # check every picture's CRC-32
    threads: Count = Field(0, json_schema_extra=FREE)  # that decode; 0: one a core
    ahead: Positive = Field(4, json_schema_extra=FREE)  # batches decoded before they are wanted
    cache_dir: str = Field("", json_schema_extra=FREE)  # keeps what remote shards gave; empty: none
    cache_bytes: Positive = Field(64 << 30, json_schema_extra=FREE)  # of it, for all processes

    @model_validator(mode="after")
    def _check_sources(self) -> "DataConfig":
        if self.train and self.sources:
            raise ValueError(
                f"train={shown(self.train)!r} and {len(self.sources)} sources are set: keep one of them "
                '(data.train="" or data.sources=[] on the command line)'
            )
        if not self.train and not self.sources:
            raise ValueError(
                "train is missing: set data.train to a folder of shards, or data.sources to several, "
                'as in data.sources=[{path="a", weight=2}, {path="b", weight=1}]'
            )
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders of shards to train on."""
        return tuple(source.path for source in self.sources) or (self.train,)


class LossConfig(Part):
    """The likelihood and the weight of the KL term; every term is in nats per image."""

    likelihood: Literal["gaussian", "laplace"] = "gaussian"
    scale: Annotated[float, Field(gt=0)] | Literal["optimal"] = "optimal"  # grey levels of 255
    beta: float = Field(1.0, ge=0)  # 1: the evidence lower bound
    schedule: Literal["constant", "linear", "cyclical"] = "constant"  # of beta
    warmup_steps: Count = 0  # of "linear"
    cycle_steps: Positive = 1000  # of "cyclical"
    free_bits: float = Field(0.0, ge=0)  # nats a dimension that cost nothing
    rate: float = Field(0.0, ge=0)  # nats that beta is steered to after warmup_steps; 0: it isn't
    perceptual: float = Field(0.0, ge=0)  # nats for each number of a picture, at distance 1
    perceptual_network: Literal["effnet_lite0", "vgg16"] = "effnet_lite0"
    perceptual_size: int = Field(0, ge=0, le=4096)  # pixels that it looks at; 0: its own choice


class AdversarialConfig(Part):
    """The discriminator and its game; see `dvae.adversarial`."""

    weight: float = Field(0.0, ge=0)  # 0: there is none
    adaptive: bool = True  # weigh it by the gradients' lengths
    loss: Literal["hinge", "relativistic"] = "hinge"
    start: float = Field(0.2, ge=0, lt=1)  # share of the steps before it is let into the generator
    ramp: float = Field(0.1, ge=0, le=1)  # share of the steps until it has its whole weight
    channels: Channels = 64  # of the discriminator's first layer
    layers: int = Field(3, ge=1, le=8)  # of its layers halve the size
    norm: Literal["spectral", "group", "none"] = "spectral"
    learning_rate: float = Field(1e-4, gt=0)  # at the peak of the generator's schedule
    r1: float = Field(0.0, ge=0)  # penalty on its gradient at pictures
    r2: float = Field(0.0, ge=0)  # … at reconstructions
    penalty_every: Positive = 16  # steps
    lecam: float = Field(0.0, ge=0)  # penalty on logits that leave the running mean
    augment: bool = False  # DiffAugment, for some thousands of pictures
    patience: Count = 1000  # steps that it may win before the run stops; 0: for ever


class OptimConfig(Part):
    """Adam, its schedule, and the averaged weights."""

    name: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(3e-4, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.99,
    )
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: Count = 0  # linear, from 0
    min_learning_rate: float = Field(0.0, ge=0)  # where the cosine ends
    max_grad_norm: float = Field(1.0, ge=0)  # 0: gradients aren't clipped
    ema: float = Field(0.999, ge=0, lt=1)  # decay of the averaged weights; 0: none are kept


class TrainConfig(Part):
    """The run of the loop."""

    steps: Positive
    start: Location = ""  # weights to begin from: a run, a weights folder, diffusers' or a Hub id
    decoder_only: bool = False  # the encoder stays as it began
    global_batch_size: Positive  # over all processes and micro-batches
    micro_batch_size: Count | Literal["auto"] = Field(
        0, json_schema_extra=FREE
    )  # 0: a process's share at once; auto: halved where the memory doesn't suffice
    seed: int = Field(0, ge=0, lt=2**63)
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    channels_last: bool = Field(True, json_schema_extra=FREE)
    guard: Literal["stop", "skip", "rollback"] = Field(
        "stop", json_schema_extra=FREE
    )  # what a loss or gradient that isn't finite, or is a spike, does
    spike: float = Field(100.0, ge=0, json_schema_extra=FREE)  # times the median; 0: none is one
    audit: bool = Field(True, json_schema_extra=FREE)  # look where the first step's gradients go
    log_every: Positive = Field(10, json_schema_extra=FREE)  # steps
    save_every: Positive = Field(500, json_schema_extra=FREE)
    keep: Positive = Field(2, json_schema_extra=FREE)  # checkpoints, besides the best
    keep_every: Count = Field(0, json_schema_extra=FREE)  # those of every so many steps; 0: none
    async_save: bool = Field(True, json_schema_extra=FREE)  # train on while a checkpoint is written
    peer_timeout: int = Field(300, ge=10, json_schema_extra=FREE)  # seconds to wait for a process
    peer_slow: float = Field(5.0, ge=0, json_schema_extra=FREE)  # times the others' work; 0: any

    def micro_batch(self, world_size: int) -> int:
        """The pictures that a process begins to take through the network at a time."""
        named = 0 if self.micro_batch_size == "auto" else self.micro_batch_size
        return named or self.global_batch_size // world_size

    @model_validator(mode="after")
    def _check_start(self) -> "TrainConfig":
        if self.decoder_only and not self.start:
            raise ValueError(
                "decoder_only=true would leave a random encoder as it is: set train.start to a run "
                "or weights folder whose encoder it shall keep"
            )
        return self


class EvalConfig(Part):
    """What is measured and drawn while training."""

    every: Positive = Field(500, json_schema_extra=FREE)  # steps
    images: Count = Field(0, json_schema_extra=FREE)  # of the validation split; 0: all
    grid: Positive = Field(5, json_schema_extra=FREE)  # rows and columns of the sample grid


class RunConfig(Part):
    """Where the run is kept."""

    dir: str = Field("runs", json_schema_extra=FREE)
    name: str = Field("", json_schema_extra=FREE)  # empty: the recipe's file name


class Config(Part):
    """A whole recipe."""

    model: ModelConfig
    data: DataConfig
    loss: LossConfig = LossConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig
    eval: EvalConfig = EvalConfig()
    run: RunConfig = RunConfig()

    @property
    def image_size(self) -> int:
        """Pixels, height = width."""
        return self.model.image_size

    @property
    def dims(self) -> int:
        """D = 3 H W, numbers in a picture."""
        return 3 * self.image_size**2

    @property
    def folder(self) -> Path:
        """runs/NAME."""
        return Path(self.run.dir) / self.run.name
