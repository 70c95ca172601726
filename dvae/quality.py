"""How like the data a network's pictures are: `dvae evaluate WEIGHTS SHARDS --samples N`.

Reconstructions and samples apart, each beside what real pictures score, in the pooled features of
EfficientNet-Lite0 (`kd_effnetlite0`, `fd_effnetlite0`: neither is KID or FID, which take Inception's).
Where the user has the standard weights (`dvae.features.files`), KID, FID and LPIPS as well.
Everything is drawn by the seed and compared by one process, so that no number depends on how many
train or measure.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dvae.data.batches import Pictures
from dvae.data.manifest import find_split
from dvae.data.reader import Reader
from dvae.data.storage import Location
from dvae.distances import Measured, mean_with_interval, nearest
from dvae.errors import UserError
from dvae.features.effnet_lite0 import load_effnet_lite0
from dvae.features.inception import load_inception
from dvae.features.vgg16 import load_vgg16
from dvae.generate import Sampling, reconstruct, sample
from dvae.likeness import LEAST_FID, Judge, Likeness, as_input, if_there, in_features, perceptual
from dvae.memorisation import Memory, memorised
from dvae.pictures import grid, save_png, to_pixels
from dvae.weights import Weights

LEAST = 100  # pictures of each kind: below it the intervals say nothing
MOST_TRAIN = 20_000  # training pictures that the nearest ones are looked for among
SHOWN = 8  # samples over their nearest training pictures


@dataclass(frozen=True)
class Quality:
    """What `measure_quality` found."""

    rows: list[Likeness]
    perceptual_effnetlite0: Measured  # of reconstructions of held-out pictures, to them
    lpips_vgg16: Measured | None  # likewise; None: no standard weights
    memory: Memory


@torch.no_grad()
def measure_quality(
    weights: Weights,
    train: Location,
    held_out: Location,
    split: str,
    count: int,
    seed: int = 0,
    sheet: Path | None = None,
) -> Quality:
    """Compare `count` reconstructions and samples with real pictures.

    Args:
        weights: to be measured.
        train: shards with a split train, that the weights learnt.
        held_out: shards that it didn't.
        split: of those.
        count: of each kind, at most; fewer where a split has fewer.
        seed: of the samples, and of which pictures are taken.
        sheet: a PNG for the samples that are nearest to a training picture, over it.

    Raises:
        UserError: there are fewer than 100 pictures of a kind.
    """
    learnt = Pictures(Reader(find_split(train, "train")), weights.model.image_size)
    others = Pictures(Reader(find_split(held_out, split)), weights.model.image_size)
    chosen = some(learnt, MOST_TRAIN, seed)
    refuse_few(count, len(others.reader), len(chosen))
    network, inception, vgg = load_effnet_lite0(), if_there(load_inception), if_there(load_vgg16)
    images, ids = pictures(learnt, chosen)
    judge = Judge(images, in_features(network, images), min(count, len(images)), seed, inception)
    true, _ = pictures(others, some(others, count, seed))
    seen = in_features(network, true)
    back = to_pixels(reconstruct(weights, as_input(true)))
    drawn = {
        name: to_pixels(sample(weights, count, seed, how))
        for name, how in ways_to_sample(weights).items()
    }
    found = {name: in_features(network, made) for name, made in drawn.items()}

    rows = [
        judge.likeness("held-out pictures", true, seen),
        judge.likeness("reconstructions", back, in_features(network, back)),
        *(judge.likeness(name, made, found[name]) for name, made in drawn.items()),
    ]
    if len(images) >= count + LEAST:
        other = slice(count, 2 * count)
        floor = judge.likeness("other training pictures", images[other], judge.features[other])
        rows.insert(0, floor)
    name, first = next(iter(drawn.items()))
    places, distances = nearest(found[name], judge.features)
    held_out_distances = nearest(seen, judge.features)[1]
    if sheet:
        closest = distances.argsort()[:SHOWN]
        pairs = torch.cat([first[closest], images[places[closest]]])
        save_png(grid(as_input(pairs), len(closest)), sheet)
    where = [learnt.reader.place(int(ids[place])) for place in places.tolist()]
    memory = memorised(held_out_distances, distances, where, len(images))
    pair = as_input(back), as_input(true)
    apart = mean_with_interval(perceptual(network, *pair))
    lpips = mean_with_interval(perceptual(vgg, *pair)) if vgg else None
    return Quality(rows, apart, lpips, memory)


def ways_to_sample(weights: Weights) -> dict[str, Sampling]:
    """The fitted prior, where there is one, and N(0, I), where the network has a Gaussian."""
    ways = {}
    if weights.prior:
        ways[f"samples, {weights.prior.about.kind} prior"] = Sampling()
    if weights.model.is_variational:
        ways["samples, N(0, I)"] = Sampling(normal=True)
    if not ways:
        raise UserError("a plain autoencoder without a fitted prior can't be sampled: fit one")
    return ways


def refuse_few(count: int, held_out: int, train: int) -> None:
    """Stop where no interval would mean anything.

    Raises:
        UserError: there are fewer than 100 pictures of a kind.
    """
    for name, found in (("--samples", count), ("held-out pictures", held_out), ("train", train)):
        if found < LEAST:
            raise UserError(f"{name}: {found} is too few for a distance of sets: {LEAST} at least")


def pictures(source: Pictures, ids: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Centres of pictures, (n, 3, S, S) uint8, and their ids, without the unreadable ones."""
    size = source.image_size
    images = np.zeros((len(ids), size, size, 3), dtype=np.uint8)
    bad = source.decode_into(images, ids, source.crops(ids, np.zeros_like(ids)))
    good = ~np.isin(ids, [entry.sample for entry in bad])
    return torch.from_numpy(images[good]).permute(0, 3, 1, 2), ids[good]


def some(source: Pictures, count: int, seed: int) -> np.ndarray:
    """`count` sample ids of a split, drawn without replacement."""
    return np.random.default_rng(seed).permutation(len(source.reader))[:count]


def table(quality: Quality) -> str:
    """What was measured, in lines."""
    lines = [
        f"\n{'':32}{'n':>6}{'distinct':>9}  kd_effnetlite0, fd_effnetlite0, precision, recall, "
        "high-frequency power"
    ]
    for row in quality.rows:
        numbers = (row.kd_effnetlite0, row.fd_effnetlite0, row.precision, row.recall)
        shown = "  ".join(map(str, numbers))
        lines.append(
            f"{row.pictures:32}{row.count:6}{row.distinct:9}  {shown}  {row.high_frequency:.3f}"
        )
    lines += [
        f"{row.pictures:32}KID x 1000 {row.kid}, FID {row.fid or f'needs {LEAST_FID} pictures'}"
        for row in quality.rows
        if row.kid
    ]
    memory = quality.memory
    if quality.lpips_vgg16:
        lines.append(f"LPIPS (VGG) of reconstructions  {quality.lpips_vgg16}")
    lines += [
        f"perceptual_effnetlite0 of reconstructions  {quality.perceptual_effnetlite0}",
        f"nearest of {memory.train} training pictures: samples at {memory.samples_median:.3g}, "
        f"held-out pictures at {memory.held_out_median:.3g} (medians); {100 * memory.near:.1f} % of "
        "the samples are nearer than 99 % of the held-out pictures (by chance 1 %)",
    ]
    return "\n".join(lines)


def report(
    weights: Weights,
    train: Location,
    held_out: Location,
    split: str,
    count: int,
    sheet: Path | None,
) -> dict[str, object]:
    """Measure, print the table, and give the same as JSON's types."""
    quality = measure_quality(weights, train, held_out, split, count, sheet=sheet)
    sys.stdout.write(table(quality) + "\n")
    return asdict(quality)
