"""Nothing that a run may change under way changes a batch: processes, threads, micro-batches, stops.

Everything goes through the real Loader over real shards of tiny pictures.
"""

import io
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from dvae.data.batches import Batch, Loader, Pictures
from dvae.data.manifest import find_split
from dvae.data.mixture import Mixture
from dvae.data.order import Order
from dvae.data.plans import evaluation_plan, training_plan
from dvae.data.reader import Reader
from dvae.latents import keyed_normal
from shards.pack import main as pack

BATCH, SEED, SIZE = 12, 4, 8
TRAIN = 406  # pictures: 33 global batches, 10 pictures wait


class Given(NamedTuple):
    """What the network sees of a global batch, slot by slot."""

    epochs: list[int]
    ids: list[int]
    pixels: torch.Tensor
    flips: list[bool]
    noise: torch.Tensor


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Shards of uneven counts: 406 pictures in `train`, 100 in `other`."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("tiny")
    for name, count in (("train", TRAIN), ("other", 100)):
        (root / name).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (11, 10 + number % 7, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            (root / name / f"{number:04}.png").write_bytes(buffer.getvalue())
        out = root / "shards" / name
        assert pack([str(root / name), str(out), "--shard-bytes", "90000"]) == 0
    return root / "shards"


def pictures_of(*splits):
    return Pictures(Reader(*splits), SIZE, crop_min=0.6, flip=True, random_place=True, seed=SEED)


@pytest.fixture(scope="module", params=["permuted", "windows", "mixture"])
def trained_on(request, tiny):
    """The order and the pictures of a run."""
    split, other = find_split(tiny / "train", "train"), find_split(tiny / "other", "train")
    assert len(split.shards) > 3
    if request.param == "mixture":
        counts = [split.counts, other.counts]
        return Mixture("ab", counts, (2.0, 1.0), SEED, BATCH), pictures_of(split, other)
    window = 5 if request.param == "windows" else 0
    return Order(split.counts, SEED, BATCH, window), pictures_of(split)


def given_to(batch: Batch, micro: int) -> Given:
    """As the train loop takes a batch: noise is drawn for each micro-batch."""
    parts = [batch.part(slice(start, start + micro)) for start in range(0, len(batch.ids), micro)]
    noise = [keyed_normal(part.ids, (3,), SEED, part.epochs) for part in parts]
    assert not batch.bad
    return Given(
        batch.epochs.tolist(),
        batch.ids.tolist(),
        torch.cat([part.images for part in parts]).clone(),
        np.concatenate([part.flips for part in parts]).tolist(),
        torch.cat(noise),
    )


def put_together(parts: list[Given]) -> Given:
    columns = list(zip(*parts, strict=True))
    lists = [[value for part in column for value in part] for column in columns]
    return Given(lists[0], lists[1], torch.cat(columns[2]), lists[3], torch.cat(columns[4]))


def run(trained_on, start, stop, world_size=1, threads=1, micro=BATCH) -> list[Given]:
    """The global batches of some steps, from fresh loaders, one for each process."""
    order, pictures = trained_on
    ranks = []
    ahead = min(3, stop - start)
    for rank in range(world_size):
        plan = training_plan(order, start, rank, world_size)
        with Loader(plan, pictures, threads, ahead) as loader:
            ranks.append([given_to(next(loader), micro) for _ in range(start, stop)])
    return [put_together(list(parts)) for parts in zip(*ranks, strict=True)]


def same(a: Given, b: Given) -> bool:
    return (
        (a.epochs, a.ids, a.flips) == (b.epochs, b.ids, b.flips)
        and torch.equal(a.pixels, b.pixels)
        and torch.equal(a.noise, b.noise)
    )


@pytest.fixture(scope="module")
def uninterrupted(trained_on):
    """An epoch and the first steps of the next one."""
    return run(trained_on, 0, trained_on[0].steps_per_epoch + 4)


def test_the_batches_hold_different_pictures_flips_and_noise(uninterrupted):
    assert len({tuple(given.ids) for given in uninterrupted}) == len(uninterrupted)
    assert 0.4 < np.mean([given.flips for given in uninterrupted]) < 0.6
    assert len({tuple(given.noise.flatten().tolist()) for given in uninterrupted}) > 30


@pytest.mark.parametrize(
    "changes",
    [  # where a run stops and goes on: step, processes, threads, micro-batch
        [(0, 1, 1, 12), (7, 4, 2, 3), (8, 2, 4, 2), (25, 6, 1, 1)],
        [(0, 6, 2, 2), (11, 1, 4, 5), (12, 12, 1, 1), (13, 3, 2, 4)],
        [(0, 2, 1, 6), (1, 3, 1, 2), (32, 4, 2, 3), (33, 2, 2, 4), (34, 1, 1, 7)],
        # A mixture of 506 pictures: its smaller source's pass ends with step 24, its epoch with 41.
        [(0, 1, 2, 12), (25, 3, 1, 2), (26, 1, 2, 5), (41, 4, 2, 3), (42, 2, 2, 4), (43, 6, 1, 2)],
    ],
    ids=["grows and shrinks", "one step at a time", "at an epoch's edge", "at a mixture's edges"],
)
def test_changing_processes_threads_and_micro_batches_changes_nothing(
    trained_on, uninterrupted, changes, record_property
):
    changes = [change for change in changes if change[0] < len(uninterrupted)]
    ends = [change[0] for change in changes[1:]] + [len(uninterrupted)]
    pieced: list[Given] = []
    for (start, world_size, threads, micro), stop in zip(changes, ends, strict=True):
        pieced += run(trained_on, start, stop, world_size, threads, micro)
    assert all(same(a, b) for a, b in zip(pieced, uninterrupted, strict=True))
    record_property("changes of processes, threads and micro-batches", len(changes) - 1)


def restore_at(trained_on, uninterrupted, steps, threads, world_sizes):
    for step in steps:
        for world_size in world_sizes:
            (given,) = run(trained_on, step, step + 1, world_size, threads)
            assert same(given, uninterrupted[step]), (step, world_size, threads)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_run_restored_at_some_steps_goes_on_with_the_same_batch(
    trained_on, uninterrupted, threads
):
    steps = [0, 1, 16, len(uninterrupted) - 5, len(uninterrupted) - 4]
    restore_at(trained_on, uninterrupted, steps, threads, [1, 4])


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_run_restored_at_every_step_goes_on_with_the_same_batch(
    trained_on, uninterrupted, threads, record_property
):
    worlds = [1, 2, 3, 4, 6]
    restore_at(trained_on, uninterrupted, range(len(uninterrupted)), threads, worlds)
    record_property("restored states", len(uninterrupted) * len(worlds))


def test_an_epoch_delivers_every_picture_once_but_for_less_than_a_batch(trained_on, uninterrupted):
    order, _ = trained_on
    seen = [pair for given in uninterrupted for pair in zip(given.epochs, given.ids, strict=True)]
    assert len(set(seen)) == len(seen)
    if isinstance(order, Order):
        first = [sample for epoch, sample in seen if epoch == 0]
        assert TRAIN - len(first) == TRAIN % BATCH


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_validation_sees_every_picture_once_on_any_processes_and_padding_weighs_nothing(
    tiny, world_size
):
    pictures = Pictures(Reader(find_split(tiny / "other", "train")), SIZE)
    seen: list[int] = []
    weight = 0.0
    steps = set()
    for rank in range(world_size):
        with Loader(evaluation_plan(100, 24, rank, world_size), pictures, 1) as loader:
            batches = list(loader)
        steps.add(len(batches))
        for batch in batches:
            seen += batch.ids[batch.weights > 0].tolist()
            weight += batch.weights.sum()
            assert not batch.images[torch.from_numpy(batch.weights == 0)].any()
    assert sorted(seen) == list(range(100))
    assert weight == 100
    assert steps == {5}
