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

import torch
from torch import Tensor

from dvae.data.batches import Pictures
from dvae.data.manifest import find_split
from dvae.data.reader import Reader
from dvae.data.storage import Location
from dvae.distances import Measured, mean_with_interval, nearest
from dvae.errors import UserError
from dvae.features.effnet_lite0 import EffNetLite0, load_effnet_lite0
from dvae.features.inception import load_inception
from dvae.features.vgg16 import load_vgg16
from dvae.generate import Sampling, reconstruct, sample
from dvae.likeness import LEAST_FID, Judge, Likeness, if_there, in_features, perceptual
from dvae.membership import Membership, learn_membership
from dvae.memorisation import Memory, memorised
from dvae.pictures import as_input, grid, save_png, some_pictures, to_pixels
from dvae.rejection import best
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
    memory: Memory  # of the samples of the first way
    memory_kept: Memory | None  # of those that were kept; None: all were


@torch.no_grad()
def measure_quality(
    weights: Weights,
    train: Location,
    held_out: Location,
    split: str,
    count: int,
    seed: int = 0,
    sheet: Path | None = None,
    keep: float | None = None,
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
        keep: also judge the best of count / keep samples, see `dvae.rejection`.

    Raises:
        UserError: there are fewer than 100 pictures of a kind.
    """
    learnt = Pictures(Reader(find_split(train, "train")), weights.model.image_size)
    others = Pictures(Reader(find_split(held_out, split)), weights.model.image_size)
    refuse_few(count, len(others.reader), min(len(learnt.reader), MOST_TRAIN))
    network, vgg = load_effnet_lite0(), if_there(load_vgg16)
    images, ids = some_pictures(learnt, MOST_TRAIN, seed)
    judge = judge_of(images, network, count, seed)
    true, _ = some_pictures(others, count, seed)
    back = to_pixels(reconstruct(weights, as_input(true)))
    drawn = drawn_samples(weights, judge.membership, count, seed, keep)
    made = {"held-out pictures": true, "reconstructions": back} | drawn
    found = {name: in_features(network, pictures) for name, pictures in made.items()}
    rows = [judge.likeness(name, pictures, found[name]) for name, pictures in made.items()]

    first, last = list(drawn)[0], list(drawn)[-1]
    apart = nearest(found["held-out pictures"], judge.features)[1]
    near = {
        name: nearest(found[name], judge.features) for name in ({first, last} if keep else {first})
    }
    if sheet:
        save_sheet(sheet, drawn[first], images, *near[first])
    memory = {
        name: memorised(
            apart, distances, [learnt.reader.place(int(ids[p])) for p in places], len(ids)
        )
        for name, (places, distances) in near.items()
    }
    pair = as_input(back), as_input(true)
    return Quality(
        floor(judge) + rows,
        mean_with_interval(perceptual(network, *pair)),
        mean_with_interval(perceptual(vgg, *pair)) if vgg else None,
        memory[first],
        memory[last] if keep else None,
    )


def judge_of(images: Tensor, network: EffNetLite0, count: int, seed: int) -> Judge:
    """The judge whose reference are the first `count` of (m, 3, S, S) uint8 training pictures."""
    features, membership = in_features(network, images), learn_membership(network, images)
    count = min(count, len(images))
    return Judge(images, features, count, seed, membership, if_there(load_inception))


def floor(judge: Judge) -> list[Likeness]:
    """How like the reference other training pictures are, where there are some."""
    if len(judge.images) < judge.count + LEAST:
        return []
    other = slice(judge.count, 2 * judge.count)
    return [judge.likeness("other training pictures", judge.images[other], judge.features[other])]


def drawn_samples(
    weights: Weights, membership: Membership, count: int, seed: int, keep: float | None
) -> dict[str, Tensor]:
    """Of each way to sample `count`, (n, 3, S, S) uint8; last the kept ones of the first way."""
    ways = ways_to_sample(weights)
    drawn = {name: to_pixels(sample(weights, count, seed, how)) for name, how in ways.items()}
    if keep:
        name, how = next(iter(ways.items()))
        kept = best(weights, membership, count, keep, seed, how)
        drawn[f"{name}, best {100 * keep:.3g} %"] = to_pixels(kept.images)
    return drawn


def save_sheet(path: Path, made: Tensor, real: Tensor, places: Tensor, distances: Tensor) -> None:
    """A PNG of the pictures that are nearest to a real one, over it; uint8."""
    closest = distances.argsort()[:SHOWN]
    pairs = torch.cat([made[closest], real[places[closest]]])
    save_png(grid(as_input(pairs), len(closest)), path)


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


def table(quality: Quality) -> str:
    """What was measured, in lines."""
    lines = [
        f"\n{'':36}{'n':>6}{'distinct':>9}  kd_effnetlite0, fd_effnetlite0, precision, recall, "
        "recognised, high-frequency power"
    ]
    for row in quality.rows:
        kd, fd = row.kd_effnetlite0, row.fd_effnetlite0
        shown = "  ".join(map(str, (kd, fd, row.precision, row.recall, row.recognised)))
        lines.append(
            f"{row.pictures:36}{row.count:6}{row.distinct:9}  {shown}  {row.high_frequency:.3f}"
        )
    lines += [
        f"{row.pictures:36}KID x 1000 {row.kid}, FID {row.fid or f'needs {LEAST_FID} pictures'}"
        for row in quality.rows
        if row.kid
    ]
    if quality.lpips_vgg16:
        lines.append(f"LPIPS (VGG) of reconstructions  {quality.lpips_vgg16}")
    lines.append(f"perceptual_effnetlite0 of reconstructions  {quality.perceptual_effnetlite0}")
    memories = {"samples": quality.memory, "kept samples": quality.memory_kept}
    lines += [
        f"nearest of {memory.train} training pictures: {name} at {memory.samples_median:.3g}, "
        f"held-out pictures at {memory.held_out_median:.3g} (medians); {100 * memory.near:.1f} % of "
        f"the {name} are nearer than 99 % of the held-out pictures (by chance 1 %)"
        for name, memory in memories.items()
        if memory
    ]
    return "\n".join(lines)


def report(
    weights: Weights,
    train: Location,
    held_out: Location,
    split: str,
    count: int,
    sheet: Path | None,
    keep: float | None,
) -> dict[str, object]:
    """Measure, print the table, and give the same as JSON's types."""
    quality = measure_quality(weights, train, held_out, split, count, sheet=sheet, keep=keep)
    sys.stdout.write(table(quality) + "\n")
    return asdict(quality)
