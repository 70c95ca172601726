"""Batches: this process's share of each global batch, decoded on threads ahead of the training.

A batch is one uint8 array; threads write pictures straight into its slots. Which pictures, and how
they are cropped and flipped, is a function of (seed, epoch, sample id) alone (design contract 1).
"""

import json
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import get_ident
from typing import NamedTuple

import numpy as np
import torch

from dvae.data.buffers import Buffers
from dvae.data.decode import Crop, decode
from dvae.data.formats import MAX_PIXELS
from dvae.data.keyed import CROP, FLIP, uniform
from dvae.data.plans import Plan, evaluation_plan
from dvae.data.reader import BadSample, Place, Reader
from dvae.files import append

PICTURES_A_TASK = 8  # few enough to share a batch out, enough to hide what a task costs


class Bad(NamedTuple):
    """A sample that weighs nothing, and why."""

    sample: int
    place: Place
    reason: str

    def __str__(self) -> str:
        return f"{self.place.shard}, {self.place.key} at byte {self.place.offset}: {self.reason}"


Task = Future[list[Bad | None]]  # the decoding of some slots, one after another


@dataclass(frozen=True)
class Batch:
    """This process's share of a global batch."""

    epoch: int
    step: int  # of the epoch
    epochs: np.ndarray  # (n,) int64: a sample's own pass; all equal with one source
    ids: np.ndarray  # (n,) sample ids
    images: torch.Tensor  # (n, S, S, 3) uint8
    flips: np.ndarray  # (n,) bool: to be mirrored, on the device
    weights: np.ndarray  # (n,) 1, or 0 for a bad or a padding sample
    bad: Sequence[Bad]

    def part(self, samples: slice | np.ndarray) -> "Batch":
        """Some of the samples, by their places in the batch."""
        return replace(
            self,
            epochs=self.epochs[samples],
            ids=self.ids[samples],
            images=self.images[samples],
            flips=self.flips[samples],
            weights=self.weights[samples],
        )

    def append_bad(self, path: Path, split: str, step: int) -> None:
        """Append the bad samples to a list that several processes share, one JSON line each.

        Args:
            path: of the list.
            split: that the samples are of.
            step: of the run, that counts from 1.
        """
        if not self.bad:
            return
        where = {"split": split, "epoch": self.epoch, "step": step}
        lines = [
            json.dumps({**where, "sample": bad.sample, **vars(bad.place), "reason": bad.reason})
            for bad in self.bad
        ]
        append(path, ("\n".join(lines) + "\n").encode())


@dataclass(frozen=True)
class Pictures:
    """How pictures of a split become pixels; the same on every process.

    Args:
        reader: of the split.
        image_size: pixels, height = width.
        crop_min: the random crop's least share of the shorter side; 1 keeps all of it.
        flip: mirror half of the pictures.
        seed: of crops and flips.
        max_pixels: larger pictures are refused.
    """

    reader: Reader
    image_size: int
    crop_min: float = 1.0
    flip: bool = False
    random_place: bool = False
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    under_way: dict[int, int] = field(default_factory=dict)  # samples, by the thread that is at it

    def crops(self, ids: np.ndarray, epochs: np.ndarray) -> list[Crop]:
        """One crop a sample, (n,) ids and epochs; the centre, unless the place is drawn."""
        if not self.random_place:
            return [Crop()] * len(ids)
        draws = uniform(ids, 3, self.seed, epochs, CROP)
        draws[:, 0] = self.crop_min + (1 - self.crop_min) * draws[:, 0]
        return [Crop(*row) for row in draws.tolist()]

    def flips(self, ids: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """(n,) bool: which samples are mirrored."""
        if not self.flip:
            return np.zeros(len(ids), dtype=bool)
        return uniform(ids, 1, self.seed, epochs, FLIP)[:, 0] < 0.5

    def decode_into(
        self, images: np.ndarray, ids: np.ndarray, crops: list[Crop]
    ) -> list[Bad | None]:
        """Fill (n, S, S, 3) uint8; a bad sample's slot becomes black.

        Returns:
            What came of each slot: None if its picture was decoded, else the bad sample.
        """
        outcomes: list[Bad | None] = []
        for slot, (sample, crop) in enumerate(zip(ids.tolist(), crops, strict=True)):
            self.under_way[get_ident()] = sample
            try:
                picture = self.reader.picture(sample)
                decode(picture, images[slot], crop, self.max_pixels)
                outcomes.append(None)
            except BadSample as error:
                images[slot] = 0
                outcomes.append(Bad(sample, self.reader.place(sample), str(error)))
        self.under_way.pop(get_ident(), None)
        return outcomes


class Loader:
    """Iterates over batches of a plan; at most `ahead` of them are decoded before they are asked for.

    Use it as a context manager, or exhaust it: leaving it ends the threads.
    """

    def __init__(
        self, plan: Iterator[Plan], pictures: Pictures, threads: int = 0, ahead: int = 4
    ) -> None:
        self._plan = plan
        self._pictures = pictures
        self._ahead = ahead
        self._buffers = Buffers()
        self._pool = ThreadPoolExecutor(
            threads or default_threads(), "decode", initializer=_one_thread_each
        )
        self._waiting: deque[tuple[Batch, list[Task]]] = deque()
        self._due = np.empty(0, dtype=np.int64)  # the ids of the batch that was asked for last

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._plan, Generator):
            self._plan.close()  # nothing is fetched ahead from here on
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        while len(self._waiting) < self._ahead:
            plan = next(self._plan, None)
            if plan is None:
                break
            self._waiting.append(self._start(plan))
        if not self._waiting:
            raise StopIteration
        batch, tasks = self._waiting.popleft()
        self._due = batch.ids
        outcomes = [outcome for task in tasks for outcome in task.result()]  # slot by slot
        bad = [outcome for outcome in outcomes if outcome]
        read, planned = outcomes.count(None), np.count_nonzero(batch.weights)
        if read + len(bad) != planned:
            raise RuntimeError(
                f"epoch {batch.epoch}, step {batch.step}: {read} samples read and {len(bad)} bad "
                f"ones are not the {planned} planned: this is a fault of dvae's, please report it"
            )
        weights = np.zeros_like(batch.weights)
        weights[: len(outcomes)] = [outcome is None for outcome in outcomes]
        return replace(batch, weights=weights, bad=bad)

    def waits_for(self) -> str:
        """The shards that the batch asked for last is being read from, for a message."""
        samples = [s for s in list(self._pictures.under_way.values()) if s in self._due]
        return ", ".join(sorted({self._pictures.reader.shard(sample) for sample in samples}))

    def _start(self, plan: Plan) -> tuple[Batch, list[Task]]:
        size = self._pictures.image_size
        images = self._buffers.take((len(plan.ids), size, size, 3))
        crops = self._pictures.crops(plan.ids, plan.epochs)
        flips = self._pictures.flips(plan.ids, plan.epochs)
        array = images.numpy()
        wanted = np.flatnonzero(plan.weights)
        last = int(wanted[-1]) + 1 if len(wanted) else 0  # padding stands at the end
        array[last:] = 0
        tasks = [
            self._pool.submit(
                self._pictures.decode_into,
                array[start : min(start + PICTURES_A_TASK, last)],
                plan.ids[start : min(start + PICTURES_A_TASK, last)],
                crops[start : min(start + PICTURES_A_TASK, last)],
            )
            for start in range(0, last, PICTURES_A_TASK)
        ]
        batch = Batch(plan.epoch, plan.step, plan.epochs, plan.ids, images, flips, plan.weights, [])
        return batch, tasks


def first_batch(pictures: Pictures, count: int) -> Batch:
    """The first pictures of a split, at most `count`, as one batch."""
    count = min(count, len(pictures.reader))
    with Loader(evaluation_plan(count, count, 0, 1), pictures, ahead=1) as loader:
        return next(loader)


def default_threads() -> int:
    """One decoding thread for each core that this process may use, 8 at most."""
    return max(1, min(8, len(os.sched_getaffinity(0))))


def _one_thread_each() -> None:
    torch.set_num_threads(1)  # of the calling thread: resizing must not start threads of its own
