"""What each rate costs and gives: one point a run, each with samples of N(0, I) and of fitted priors.

    python tests/benchmarks/rate_distortion.py RUN [RUN …] --train SHARDS --val SHARDS --out FOLDER

Train the runs first, the same recipe at several weights of the KL, as

    for b in 1 4 16 64; do dvae train configs/resvae-64.toml loss.beta=$b run.name=b$b; done

FOLDER gets table.json, rate.svg (kd_effnetlite0 of samples against the rate in nats, a line for each
prior), distortion.svg (PSNR against the rate) and, for each run and prior, a grid of 25 samples.
"""

import argparse
import sys
from pathlib import Path

import torch
from original import centres

from dvae.chart import line_chart
from dvae.distances import Measured, kernel_distance
from dvae.errors import exit_code_of
from dvae.evaluate import evaluate_weights
from dvae.features.effnet_lite0 import load_effnet_lite0
from dvae.files import write_json
from dvae.find import load
from dvae.fit_prior import GaussianConfig, MixtureConfig, fit, latents_of
from dvae.generate import Sampling, reconstruct, sample
from dvae.likeness import in_features
from dvae.pictures import as_input, grid, save_png, to_pixels
from dvae.prior import FlowConfig

SHOWN = 25  # samples of a grid
NORMAL = "N(0, I)"


def point(source: str, given: argparse.Namespace) -> dict[str, object]:
    """A run's row: its rate, its distortion, and how like the data each prior's samples are."""
    weights, network, name = load(source), load_effnet_lite0(), Path(source).name
    result = evaluate_weights(weights, given.val, "val")
    size = weights.model.image_size
    reference = in_features(network, centres(given.train, "train", size, given.count))

    def judge(images: torch.Tensor) -> Measured:
        return kernel_distance(in_features(network, to_pixels(images)), reference)

    held_out = centres(given.val, "val", size, given.count)
    found = {
        "held-out pictures": kernel_distance(in_features(network, held_out), reference),
        "reconstructions": judge(reconstruct(weights, as_input(held_out))),
    }
    latents = latents_of(weights, str(given.train), "train") if given.priors else None
    for prior in (NORMAL, *given.priors):
        how = Sampling(normal=prior == NORMAL)
        if latents and prior != NORMAL:  # held in memory only: the run's folder stays as it is
            config = {
                "gaussian": GaussianConfig(),
                "mixture": MixtureConfig(),
                "flow": FlowConfig(steps=given.flow_steps),
            }[prior]
            weights.prior = fit(latents, config, weights, given.out / f"fit-{name}")
        images = sample(weights, given.count, seed=0, how=how)
        found[prior] = judge(images)
        save_png(grid(images[:SHOWN], 5), given.out / f"{name}-{prior.split('(')[0].lower()}.png")
        print(f"| {name} | {result.kl:.0f} | {result.psnr:.2f} | {prior} | {found[prior]} |")
        sys.stdout.flush()
    return {
        "run": name,
        "beta": weights.about.loss.beta,
        "kl": result.kl,
        "psnr": result.psnr,
        "ssim": result.ssim,
        "bits_per_dim": result.bits_per_dim,
        "kd_effnetlite0": found,
    }


def figures(rows: list[dict], given: argparse.Namespace) -> None:
    """Draw the two charts."""
    rows = sorted(rows, key=lambda row: row["kl"])
    kinds = rows[0]["kd_effnetlite0"]
    lines = {kind: [(r["kl"], r["kd_effnetlite0"][kind].value) for r in rows] for kind in kinds}
    svg = line_chart(lines, "Samples at each rate", "KL, nats a picture", "kd_effnetlite0")
    (given.out / "rate.svg").write_text(svg)
    lines = {"reconstructions": [(r["kl"], r["psnr"]) for r in rows]}
    svg = line_chart(lines, "Rate and distortion", "KL, nats a picture", "PSNR, dB")
    (given.out / "distortion.svg").write_text(svg)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="trained runs")
    parser.add_argument("--train", type=Path, required=True, help="shards that they learnt")
    parser.add_argument("--val", type=Path, required=True, help="held-out shards")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--count", type=int, default=300, help="pictures of each kind")
    parser.add_argument("--priors", nargs="*", default=["gaussian", "mixture", "flow"])
    parser.add_argument("--flow-steps", type=int, default=3000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)

    def draw() -> None:
        print("| run | KL, nats | PSNR, dB | samples of | kd_effnetlite0 |")
        print("| --- | --- | --- | --- | --- |")
        rows = [point(run, given) for run in given.runs]
        write_json(given.out / "table.json", rows)
        figures(rows, given)

    return exit_code_of(draw)


if __name__ == "__main__":
    sys.exit(main())
