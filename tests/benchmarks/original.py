"""The original DogVAE's training and measuring, mistakes and all, on the pictures of a dvae run.

    python tests/benchmarks/original.py --train SHARDS --val SHARDS --steps 720 --out FOLDER \\
        --against runs/dogvae-127

As in the original's notebook: pixels of 0 … 255 go in and come out unscaled; the loss is their mean
squared error plus 0.00025 times the KL; the posterior's noise is uniform in [0, 1); Adam at 5e-4 on
batches of 128; the network never leaves training mode, so BatchNorm sees a batch of 1 where one
picture is reconstructed and a batch of 25 where 25 are sampled; numbers are cut off, not rounded.
What isn't the original's: the layers, first weights and batches (ids, crops, flips) are dvae's for
the same seed, so that only the procedure differs; and it goes on from its last checkpoint.

FOLDER holds checkpoints/, samples-own-way.png and samples-evaluated.png (the same z), and
reconstructions.png: held-out pictures, reconstructed its own way, evaluated properly, and by the
`--against` weights of the same size.
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dvae.checkpoint import NETWORK, OPTIMIZER, Checkpoints, State
from dvae.data.batches import Batch, Pictures
from dvae.data.manifest import find_split
from dvae.data.reader import Reader
from dvae.distances import kernel_distance
from dvae.errors import UserError, exit_code_of
from dvae.evaluate import evaluate_weights
from dvae.features.effnet_lite0 import load_effnet_lite0
from dvae.files import locked, remove_unfinished, write_json
from dvae.find import load
from dvae.generate import reconstruct, sample
from dvae.likeness import in_features
from dvae.metrics import psnr, ssim
from dvae.models.blocks import VAEOutput
from dvae.models.dogvae import DogVAE
from dvae.optim import load_optimizer_tensors, optimizer_tensors
from dvae.pictures import as_input, grid, mirrored, save_png, some_pictures, to_pixels
from dvae.recipe import load_config
from dvae.resume import restored
from dvae.streams import Streams, open_streams
from dvae.weights import Weights

RECIPE = Path(__file__).parents[2] / "configs" / "dogvae-127.toml"
KL_WEIGHT = 0.00025
LEARNING_RATE = 5e-4
SAVE_EVERY, LOG_EVERY = 60, 10  # steps
SHEET = 25  # samples of a sheet, which are one batch
SHOWN = 8  # reconstructions of a sheet
UNIFORM = (0.5, 1 / 12)  # mean and variance of its noise


class Row(NamedTuple):
    """A line of the table."""

    name: str
    steps: int
    psnr: float  # dB
    ssim: float
    kl: float  # nats per image
    std_z: float  # over the data, the mean over the latent's numbers
    quality: str  # kd_effnetlite0 of the samples


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """(B, D) twice -> (B,) nats; not clamped, as in the original."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1)


def uniform_noise(count: int, latent_dim: int, seed: int, step: int) -> Tensor:
    """The original's noise, (count, latent_dim) in [0, 1); of a step, so that a run can go on."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.rand(count, latent_dim, generator=generator)


def raw_pixels(batch: Batch) -> Tensor:
    """(B, 3, H, W) floats of 0 … 255, flips done, without unreadable pictures."""
    images = mirrored(batch.images.permute(0, 3, 1, 2).float(), batch.flips)
    return images[torch.from_numpy(batch.weights > 0)]


def train(given: argparse.Namespace, streams: Streams) -> tuple[DogVAE, State]:
    """Train to `--steps`, from the newest checkpoint on where there is one."""
    torch.manual_seed(given.seed)
    model = DogVAE().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    checkpoints = Checkpoints(given.out / "checkpoints", keep=2)
    remove_unfinished(checkpoints.folder)
    before = restored(checkpoints, model, averages=False, is_main=True)
    state = before.state
    if before.network:
        model.load_state_dict(before.network)
        load_optimizer_tensors(model, optimizer, before.optimizer or {})
    if given.evaluate_only:
        if not before.network:
            raise UserError(f"{given.out} holds no checkpoint to evaluate: train with --steps")
        return model, state
    print(f"step {state.step} of {given.steps}", flush=True)
    since, done = time.monotonic(), state.step
    with streams.training(state.step, rank=0, world_size=1) as batches:
        while state.step < given.steps:
            images = raw_pixels(next(batches))
            noise = uniform_noise(len(images), model.latent_dim, given.seed, state.step)
            output = model(images, noise)
            error = functional.mse_loss(output.reconstruction, images)
            kl = kl_divergence(output.mean, output.logvar).mean()
            optimizer.zero_grad()
            (error + KL_WEIGHT * kl).backward()
            optimizer.step()
            state.step += 1
            if state.step % LOG_EVERY == 0 or state.step == given.steps:
                pace = (time.monotonic() - since) / (state.step - done)
                since, done = time.monotonic(), state.step
                shown = f"mse {error:.1f}, kl {kl:.1f}, {pace:.2f} s/step"
                print(f"step {state.step}: {shown}", flush=True)
            if state.step % SAVE_EVERY == 0 or state.step == given.steps:
                files = {NETWORK: model.state_dict()}
                files[OPTIMIZER] = optimizer_tensors(model, optimizer)
                checkpoints.save(state, files)
    return model, state


@torch.no_grad()
def reconstruct_original(model: DogVAE, images: Tensor, seed: int, own_way: bool) -> VAEOutput:
    """(n, 3, 127, 127) uint8 -> their reconstructions, uint8, and posteriors.

    Its own way: one picture at a time, in training mode, with the uniform noise. Properly: in
    evaluation mode, from the posterior's mean.
    """
    model = copy.deepcopy(model).train(own_way)  # a copy: training mode moves running statistics
    noise = uniform_noise(len(images), model.latent_dim, seed, step=-1) * own_way
    size = 1 if own_way else SHEET
    parts = zip(images.split(size), noise.split(size), strict=True)
    outputs = [model(pixels.float(), drawn) for pixels, drawn in parts]
    pixels, mean, logvar = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    return VAEOutput(to_8_bits(pixels, own_way), mean, logvar)


@torch.no_grad()
def sample_original(model: DogVAE, count: int, seed: int, own_way: bool) -> Tensor:
    """`count` pictures from z ~ N(0, I), (n, 3, 127, 127) uint8; in whole batches of 25."""
    model = copy.deepcopy(model).train(own_way)
    generator = torch.Generator().manual_seed(seed)
    batches = -(-max(count, SHEET) // SHEET)
    z = torch.randn(batches, SHEET, model.latent_dim, generator=generator)
    return to_8_bits(torch.cat([model.decode(part) for part in z]), own_way)


def to_8_bits(pixels: Tensor, own_way: bool) -> Tensor:
    """Floats of about 0 … 255 to uint8; its own way cuts the fraction off."""
    whole = pixels.trunc() if own_way else pixels.round()
    return whole.clamp(0, 255).to(torch.uint8)


def std_of_z(mean: Tensor, logvar: Tensor, own_way: bool) -> float:
    """Over the data, of z = mean + sigma * noise; the mean over the latent's numbers."""
    noise_mean, noise_variance = UNIFORM if own_way else (0.0, 1.0)
    sigma = torch.exp(0.5 * logvar)
    centre = (mean + noise_mean * sigma).var(0, correction=0)
    return float((centre + noise_variance * sigma.square().mean(0)).sqrt().mean())


def centres(shards: Path, split: str, size: int, count: int | None = None) -> Tensor:
    """The centres of a split's pictures, or of some of them: (n, 3, size, size) uint8."""
    source = Pictures(Reader(find_split(shards, split)), size)
    images, ids = some_pictures(source, count or len(source.reader), seed=0)
    return images if count else images[ids.argsort()]


def quality(samples: Tensor, given: argparse.Namespace) -> str:
    """kd_effnetlite0 of samples against as many training pictures; "-" where none are asked for."""
    if not given.count:
        return "-"
    network = load_effnet_lite0()
    true = centres(given.train, "train", samples.shape[-1], given.count)
    made, real = (in_features(network, images) for images in (samples[: given.count], true))
    return str(kernel_distance(made, real))


def measure_original(
    model: DogVAE, state: State, images: Tensor, given: argparse.Namespace
) -> tuple[list[Row], list[Tensor]]:
    """The original's rows of the table, and of the sheet of reconstructions."""
    rows, shown = [], []
    for name, own_way in (("own-way", True), ("evaluated", False)):
        found = reconstruct_original(model, images, given.seed, own_way)
        samples = sample_original(model, given.count, given.seed, own_way)
        save_png(sheet_of(samples[:SHEET], columns=5), given.out / f"samples-{name}.png")
        shown.append(found.reconstruction[:SHOWN])
        pixels, true = found.reconstruction.double(), images.double()
        rows.append(
            Row(
                f"original, {'its own way' if own_way else 'evaluated properly'}",
                state.step,
                float(psnr(pixels, true).mean()),
                float(ssim(pixels, true).mean()),
                float(kl_divergence(found.mean, found.logvar).mean()),
                std_of_z(found.mean, found.logvar, own_way),
                quality(samples, given),
            )
        )
    return rows, shown


def measure_dvae(weights: Weights, source: str, given: argparse.Namespace) -> Row:
    """A dvae run's row of the table."""
    result = evaluate_weights(weights, given.val, "val")
    name = f"dvae {source} ({weights.about.model.name}, {weights.model.image_size} px)"
    samples = to_pixels(sample(weights, max(1, given.count), given.seed))
    found = quality(samples, given)
    steps = weights.about.step
    return Row(name, steps, result.psnr, result.ssim, result.kl, result.mean_std, found)


def sheet_of(images: Tensor, columns: int) -> Tensor:
    """(n, 3, H, W) uint8 -> one picture, (3, h, w) uint8."""
    return grid(as_input(images), columns)


def compare(given: argparse.Namespace) -> None:
    """Train, measure, and print the table."""
    overrides = [f"data.train={given.train}", f"data.val={given.val}", f"train.seed={given.seed}"]
    overrides += [f"data.threads={given.threads}", f"train.global_batch_size={given.batch}"]
    config = load_config(RECIPE, overrides)
    streams = open_streams(config, world_size=1)
    settings = {"train": streams.sources.digest, "seed": given.seed, "batch": given.batch}
    with locked(given.out):
        path = given.out / "settings.json"
        if path.is_file() and json.loads(path.read_text()) != settings:
            raise UserError(f"{given.out} is of other shards, batch or seed: choose another --out")
        write_json(path, settings)
        model, state = train(given, streams)
        images = centres(given.val, "val", config.image_size)
        rows, shown = measure_original(model, state, images, given)
        for source in given.against:
            weights = load(source)
            rows.append(measure_dvae(weights, source, given))
            if weights.model.image_size == config.image_size:
                shown.append(to_pixels(reconstruct(weights, as_input(images[:SHOWN]))))
        sheet = sheet_of(torch.cat([images[:SHOWN], *shown]), min(SHOWN, len(images)))
        save_png(sheet, given.out / "reconstructions.png")
        write_json(given.out / "table.json", [row._asdict() for row in rows])
    print(f"\n{len(images)} held-out pictures; pictures are in {given.out}\n")
    print("| | steps | PSNR, dB | SSIM | KL, nats | std of z | kd_effnetlite0 of samples |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        numbers = f"{row.psnr:.2f} | {row.ssim:.4f} | {row.kl:.1f} | {row.std_z:.2f}"
        print(f"| {row.name} | {row.steps} | {numbers} | {row.quality} |")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="shards to train on")
    parser.add_argument("--val", type=Path, required=True, help="held-out shards")
    parser.add_argument("--out", type=Path, required=True, help="a folder; it goes on from there")
    parser.add_argument("--steps", type=int, help="of training, in all")
    parser.add_argument("--evaluate-only", action="store_true", help="of the last checkpoint")
    parser.add_argument("--against", nargs="*", default=[], help="runs or weights folders of dvae")
    parser.add_argument("--count", type=int, default=500, help="samples to judge; 0: none")
    parser.add_argument("--batch", type=int, default=128, help="pictures a step (default 128)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    given = parser.parse_args()
    if not given.steps and not given.evaluate_only:
        parser.error("give --steps, or --evaluate-only")
    torch.set_num_threads(given.threads)
    return exit_code_of(lambda: compare(given))


if __name__ == "__main__":
    sys.exit(main())
