"""Where the detail goes: `dvae blur WEIGHTS SHARDS --out FOLDER`.

The power above half of the highest frequency, over that of the pictures themselves, falls on the way
from a picture to a sample:

    pictures 1 -> best codes -> posterior's mean -> posterior's sample -> prior's sample

What the decoder can't draw from any code of this size is the bottleneck's share: "best codes" are found
by gradient descent from the posterior's mean, or come from a plain autoencoder of the same latent size
that was trained on the same pictures (`--autoencoder`), which is the better witness. What is lost from
there to a sample of the posterior is the likelihood's: its scale and the weight of the KL say how many
nats a detail is worth, and what isn't worth them is averaged away. What is lost from there to a sample
of the prior is the prior's: its codes lie where no picture's do.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from dvae.chart import line_chart
from dvae.encode import encode_images
from dvae.errors import UserError
from dvae.features.effnet_lite0 import EffNetLite0, load_effnet_lite0
from dvae.files import whole_folder, write_json
from dvae.generate import Sampling, decode_latents, draw_latents
from dvae.likeness import perceptual
from dvae.metrics import psnr
from dvae.models.blocks import LatentModel, reparameterise
from dvae.pictures import grid, save_png, to_pixels
from dvae.spectra import high_frequency_ratio, power_spectrum
from dvae.weights import Weights

DESCENT_STEPS, DESCENT_RATE = 100, 0.05  # of Adam, from the posterior's mean to the best code
SHOWN = 8  # pictures of each stage in the sheet
REAL, MEAN, DRAWN = "pictures", "posterior's mean", "posterior's sample"
AUTOENCODER, BEST = "autoencoder", "best codes"
PAIRED = (AUTOENCODER, BEST, MEAN, DRAWN)  # each picture has its own to be compared with


@dataclass(frozen=True)
class Stage:
    """What is left of the detail at a stage."""

    name: str
    high_frequency: float  # power above half of the highest frequency, over the pictures'
    psnr: float | None  # dB, where each picture has its own
    perceptual_effnetlite0: float | None  # likewise, and where the network is installed
    spectrum: list[float]  # power at 0, 1, … cycles a picture


@dataclass(frozen=True)
class Budget:
    """Shares of the power above half of the highest frequency that is missing in a sample."""

    bottleneck: float
    likelihood: float
    prior: float  # negative where samples have more of it than reconstructions


def measure_blur(
    weights: Weights,
    images: Tensor,
    seed: int = 0,
    autoencoder: Weights | None = None,
    network: EffNetLite0 | None = None,
) -> tuple[dict[str, Tensor], list[Stage], dict[str, Budget]]:
    """Follow the detail from pictures to samples.

    Args:
        weights: of a VAE.
        images: (n, 3, S, S) in [-1, 1].
        seed: of the draws.
        autoencoder: the bottleneck's witness; without it codes are sought by descent.
        network: that perceptual distances are taken by, or None.

    Returns:
        The pictures of each stage; what is left in them; and the budget of each prior.
    """
    with torch.no_grad():
        mean, logvar = encode_images(weights, images)
    if logvar is None:
        raise UserError("a plain autoencoder has no likelihood to blame: give a VAE's weights")
    if autoencoder:
        with torch.no_grad():
            best = decode_latents(autoencoder, encode_images(autoencoder, images)[0])
    else:
        best = decode_latents(weights, best_codes(weights.model, images, mean))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    stages = {
        REAL: images,
        AUTOENCODER if autoencoder else BEST: best,
        MEAN: decode_latents(weights, mean),
        DRAWN: decode_latents(weights, reparameterise(mean, logvar, noise)),
    }
    ways = {"N(0, I)": Sampling(normal=True)}
    if weights.prior:
        ways[f"{weights.prior.about.kind} prior"] = Sampling()
    for name, how in ways.items():
        stages[name] = decode_latents(weights, draw_latents(weights, len(images), seed, how))
    found = [_stage(name, made, images, network) for name, made in stages.items()]
    _, lost, _, posterior, *priors = [stage.high_frequency for stage in found]
    return (
        stages,
        found,
        {name: budget(lost, posterior, p) for name, p in zip(ways, priors, strict=True)},
    )


def budget(best: float, posterior: float, prior: float) -> Budget:
    """Shares of what is missing, from what is left at three stages; the pictures have 1."""
    missing = 1 - prior
    if missing <= 0:
        raise UserError("the samples have more fine detail than the pictures: nothing is blurred")
    return Budget((1 - best) / missing, (best - posterior) / missing, (posterior - prior) / missing)


def best_codes(model: LatentModel, images: Tensor, start: Tensor) -> Tensor:
    """The codes that decode nearest to pictures, by Adam from `start`: (n, *shape), on the CPU."""
    device = next(model.parameters()).device
    found = []
    for part, z in zip(images.split(32), start.split(32), strict=True):
        code = z.to(device).detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([code], lr=DESCENT_RATE)
        for _ in range(DESCENT_STEPS):
            error = (model.decode(code) - part.to(device)).square().sum()
            (code.grad,) = torch.autograd.grad(error, [code])
            optimizer.step()
        found.append(code.detach().cpu())
    return torch.cat(found)


def report(weights: Weights, images: Tensor, out: Path, autoencoder: Weights | None = None) -> None:
    """Measure, print the table, and write blur.json, spectra.svg and stages.png into a new folder."""
    if out.exists():
        raise UserError(f"{out} exists: give the name of a new folder")
    try:
        network = load_effnet_lite0()
    except UserError:
        network = None  # an extra that the spectra do without
    stages, found, budgets = measure_blur(weights, images, 0, autoencoder, network)
    lines = {stage.name: list(enumerate(stage.spectrum))[1:] for stage in found}
    chart = line_chart(
        lines, "Power at each frequency", "cycles a picture", "power", logarithmic=True
    )
    rows = torch.cat([made[:SHOWN] for made in stages.values()])
    with whole_folder(out) as temporary:
        write_json(
            temporary / "blur.json",
            {
                "pictures": len(images),
                "stages": [asdict(stage) for stage in found],
                "budgets": {name: asdict(b) for name, b in budgets.items()},
            },
        )
        (temporary / "spectra.svg").write_text(chart)
        save_png(grid(rows, min(SHOWN, len(images))), temporary / "stages.png")
    sys.stdout.write(f"{table(found, budgets)}\nwritten to {out}\n")


def table(stages: list[Stage], budgets: dict[str, Budget]) -> str:
    """What was measured, in lines."""
    lines = [f"{'':24}{'fine detail':>12}{'PSNR, dB':>10}{'perceptual_effnetlite0':>24}"]
    for stage in stages:
        numbers = (stage.psnr, stage.perceptual_effnetlite0)
        psnr, far = ("" if value is None else f"{value:.3f}" for value in numbers)
        lines.append(f"{stage.name:24}{stage.high_frequency:12.3f}{psnr:>10}{far:>24}")
    for name, shares in budgets.items():
        parts = ", ".join(f"the {part}'s {100 * v:.0f} %" for part, v in asdict(shares).items())
        lines.append(f"of the detail missing in samples of {name}: {parts}")
    return "\n".join(lines)


def _stage(name: str, made: Tensor, images: Tensor, network: EffNetLite0 | None) -> Stage:
    decibels = far = None
    if name in PAIRED:
        decibels = float(psnr(to_pixels(made).double(), to_pixels(images).double()).mean())
        far = float(perceptual(network, made, images).mean()) if network else None
    spectrum = power_spectrum(made).tolist()
    return Stage(name, high_frequency_ratio(made, images), decibels, far, spectrum)
