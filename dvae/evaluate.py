"""Measure weights on held-out shards: `dvae evaluate WEIGHTS SHARDS`."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from dvae.data.ahead import evaluation_ahead
from dvae.data.batches import Batch, Loader, Pictures
from dvae.data.manifest import find_split
from dvae.data.plans import evaluation_plan
from dvae.data.reader import Reader
from dvae.data.storage import Location
from dvae.errors import DataError
from dvae.metrics import Evaluation, evaluate
from dvae.weights import Weights

BATCH = 64  # pictures

ROWS = (
    ("images", "pictures", "d"),
    ("psnr", "PSNR, dB", ".2f"),
    ("ssim", "SSIM", ".4f"),
    ("negative_elbo", "negative ELBO, nats an image", ".1f"),
    ("nll", "reconstruction, nats an image", ".1f"),
    ("kl", "KL, nats an image", ".1f"),
    ("bits_per_dim", "bits/dim", ".4f"),
    ("active_units", "active units", "d"),
    ("latent_dim", "of latent numbers", "d"),
    ("mean_std", "std of z over the data", ".3f"),
    ("detail", "fine detail kept, of 1", ".3f"),
)


def evaluate_weights(weights: Weights, shards: Location, split: str, limit: int = 0) -> Evaluation:
    """Measure a network on a split of a folder of shards; `limit` pictures, 0 for all."""
    reader = Reader(find_split(shards, split))
    pictures = Pictures(reader, weights.model.image_size)
    count = min(len(reader), limit or len(reader))
    plan = evaluation_ahead(reader, evaluation_plan(count, BATCH, 0, 1))
    with Loader(plan, pictures) as batches:
        bar = tqdm(batches, total=-(-count // BATCH), unit="batch", disable=None)
        about = weights.about
        result = evaluate(weights.model, telling_bad(bar), about.loss, about.scale, seed=0)
    result.refuse_lost(count)
    if not result.images:
        raise DataError(
            f"none of the {count} pictures of {reader.splits[0].store.shown} can be read: pack them again"
        )
    return result


def telling_bad(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches; names on stderr what is bad in them."""
    for batch in batches:
        for bad in batch.bad:
            tqdm.write(f"left out: {bad}", file=sys.stderr)
        yield batch


def table(result: Evaluation) -> str:
    """What was measured, a line each."""
    lines = []
    for name, title, form in ROWS:
        value = getattr(result, name)
        shown = "none: no Gaussian latent" if value is None else format(value, form)
        lines.append(f"{title:32}{shown}")
    return "\n".join(lines)


def report(weights: Weights, shards: Location, split: str, limit: int) -> dict[str, object]:
    """Measure, print the table, and give the same as JSON's types."""
    result = evaluate_weights(weights, shards, split, limit)
    sys.stdout.write(table(result) + "\n")
    also = {"negative_elbo": result.negative_elbo, "step": weights.about.step}
    return dataclasses.asdict(result) | also
