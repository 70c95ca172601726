"""How well a network reconstructs and codes held-out pictures; the same numbers on any world size."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dvae.config import LossConfig
from dvae.data.batches import Batch
from dvae.latents import keyed_normal
from dvae.losses import loss_terms
from dvae.models.blocks import LOGVAR_RANGE, LatentModel, VAEOutput, reparameterise
from dvae.pictures import batch_images, to_pixels
from dvae.spectra import detail

ACTIVE_VARIANCE = 0.01  # of a dimension's posterior mean over the data (Burda et al. 2016)
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels (Wang et al. 2004)
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
EVALUATION = -1  # the "epoch" of the noise that evaluation draws


@dataclass(frozen=True)
class Evaluation:
    """Means over the pictures of a split."""

    images: int
    bad: int  # pictures left out of the means
    dims: int  # D = 3 H W
    psnr: float  # dB, of each picture's 8-bit reconstruction from the posterior's mean
    ssim: float
    nll: float  # nats per image, at one z drawn from the posterior
    kl: float  # nats per image
    bits_per_dim: float | None  # of the evidence lower bound; None without a Gaussian
    active_units: int
    latent_dim: int
    mean_std: float  # of z over the data: 1 where the aggregated posterior is as wide as the prior
    hole: float  # nats a number between N(0, I) and the Gaussian, number by number, of all z
    detail: (
        float  # power of reconstructions above half of the highest frequency, over the pictures'
    )
    kl_per_dim: tuple[float, ...]  # nats

    @property
    def negative_elbo(self) -> float:
        """The negative evidence lower bound, nats per image."""
        return self.nll + self.kl

    def refuse_lost(self, planned: int) -> None:
        """Raises `RuntimeError` unless each of so many pictures was measured or is bad."""
        if self.images + self.bad != planned:
            raise RuntimeError(
                f"{self.images} pictures measured and {self.bad} bad ones are not the {planned} "
                "planned: this is a fault of dvae's, please report it"
            )

    def summary(self) -> dict[str, float]:
        """What is said of an evaluation in a line and on the model card, to six digits."""
        chosen = {
            "psnr": self.psnr,
            "ssim": self.ssim,
            "bits_per_dim": self.bits_per_dim,
            "kl": self.kl,
            "active_units": float(self.active_units),
            "latent_std": self.mean_std,
        }
        return {name: float(f"{value:.6g}") for name, value in chosen.items() if value is not None}


@torch.no_grad()
def evaluate(
    model: LatentModel,
    batches: Iterable[Batch],
    config: LossConfig,
    scale: float,
    seed: int,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Evaluation:
    """Measure a network in evaluation mode.

    Args:
        model: not wrapped; its mode is restored.
        batches: this process's share; weight 0 leaves a picture out.
        config: names the likelihood.
        scale: its scale, grey levels.
        seed: of the posterior's noise.
        reduce: sums a vector over the processes.
    """
    was_training = model.training
    model.eval()
    total: Tensor | None = None
    bad = 0
    for batch in batches:
        bad += len(batch.bad)
        parameter = next(model.parameters())
        images = batch_images(batch, parameter.device, parameter.dtype)
        noise = keyed_normal(batch.ids, model.latent_shape, seed, EVALUATION, like=images)
        sums = _sums(model, images, noise, config, scale)
        weights = torch.from_numpy(batch.weights).to(sums)
        part = (sums * weights[:, None]).sum(0)
        total = part if total is None else total + part
    model.train(was_training)
    if total is None:
        raise ValueError("evaluate needs at least one batch")
    dims = 3 * model.image_size**2
    total = reduce(torch.cat([total, total.new_tensor([bad])]))
    return _evaluation(total[:-1], round(float(total[-1])), dims, model.is_variational)


def _sums(
    model: LatentModel, images: Tensor, noise: Tensor, config: LossConfig, scale: float
) -> Tensor:
    """(B, 7 + 4 D): count, psnr, ssim, nll, kl, detail of both; KL, mean, mean^2, variance a dimension."""
    mean, logvar = model.encode(images)
    mode = model.decode(mean)
    if logvar is None:
        output, variance = VAEOutput(mode, mean, None), torch.zeros_like(mean)
    else:
        z = reparameterise(mean, logvar, noise).to(mean.dtype)
        output = VAEOutput(model.decode(z), mean, logvar)
        variance = logvar.clamp(*LOGVAR_RANGE).exp()
    terms = loss_terms(output, images, config, scale)
    exact = exact_dtype(images.device)
    pixels, true = to_pixels(mode).to(exact), to_pixels(images).to(exact)
    columns = [torch.ones_like(terms.nll), psnr(pixels, true), ssim(pixels, true)]
    columns += [terms.nll, terms.kl, detail(mode), detail(images)]
    each = torch.stack([column.to(exact) for column in columns], dim=1)
    per_dim = [terms.kl_per_dim, mean, mean.square(), variance]
    return torch.cat([each, *(values.to(exact).flatten(1) for values in per_dim)], dim=1)


def _evaluation(total: Tensor, bad: int, dims: int, is_variational: bool) -> Evaluation:
    count = float(total[0])
    means = (total / max(count, 1.0)).cpu()
    kl_per_dim, mean, square, variance = means[7:].chunk(4)
    of_mean = square - mean.square()
    nll, kl, made, true = means[3:7].tolist()
    spread = (of_mean + variance).clamp(min=1e-12)
    return Evaluation(
        images=round(count),
        bad=bad,
        dims=dims,
        psnr=float(means[1]),
        ssim=float(means[2]),
        nll=nll,
        kl=kl,
        bits_per_dim=(nll + kl) / (dims * math.log(2)) if is_variational else None,
        active_units=int((of_mean > ACTIVE_VARIANCE).sum()),
        latent_dim=len(mean),
        mean_std=float(spread.sqrt().mean()),
        hole=float(0.5 * (spread + mean.square() - 1 - spread.log()).mean()),
        detail=made / max(true, 1e-12),
        kl_per_dim=tuple(kl_per_dim.tolist()),
    )


def exact_dtype(device: torch.device) -> torch.dtype:
    """What sums are taken in: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def psnr(pixels: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture: (B, 3, H, W) in 0 … 255 twice -> (B,) dB."""
    error = (pixels - true).square().flatten(1).mean(1)
    return 10 * torch.log10(255.0**2 / error.clamp(min=1e-10))


def ssim(pixels: Tensor, true: Tensor) -> Tensor:
    """Structural similarity of each picture, the mean over colours and windows inside it.

    Wang et al. 2004, "Image quality assessment", equation 13: Gaussian windows of 11 pixels and
    sigma 1.5, K1 = 0.01, K2 = 0.03.

    Args:
        pixels: (B, 3, H, W) in 0 … 255, H and W at least 11.
        true: the same.

    Returns:
        (B,), 1 for equal pictures.
    """
    offsets = torch.arange(SSIM_WINDOW, dtype=pixels.dtype, device=pixels.device)
    line = torch.exp(-((offsets - SSIM_WINDOW // 2) ** 2) / (2 * SSIM_SIGMA**2))
    line = line / line.sum()

    def blur(x: Tensor) -> Tensor:
        planes = x.flatten(0, 1)[:, None]  # (3 B, 1, H, W)
        rows = functional.conv2d(planes, line[None, None, :, None])
        return functional.conv2d(rows, line[None, None, None, :])

    a, b = blur(pixels), blur(true)
    var_a, var_b = blur(pixels**2) - a**2, blur(true**2) - b**2
    covariance = blur(pixels * true) - a * b
    values = ((2 * a * b + SSIM_C1) * (2 * covariance + SSIM_C2)) / (
        (a**2 + b**2 + SSIM_C1) * (var_a + var_b + SSIM_C2)
    )
    return values.view(len(pixels), -1).mean(1)
