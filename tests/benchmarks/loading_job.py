"""What one measurement of loading is: a data set, a size, a number of workers; and where things lie."""

import math
import random
from pathlib import Path
from typing import NamedTuple

BATCH = 128
PICTURES = 2000
LEAST_AREA = 0.75  # of the random crop
LEAST_SIDE = math.sqrt(LEAST_AREA)
REPEATS = 5  # how often formats with a costly end of an epoch hold each picture


class Job(NamedTuple):
    """One loader's work; every loader shuffles, crops, flips and makes batches of 128."""

    loader: str
    data: Path  # a folder that loading_data.py filled
    size: int  # pixels, height = width
    workers: int  # threads, or worker processes of those that have none

    @property
    def tars(self) -> list[str]:
        """The shards with the whole pictures."""
        return sorted(str(path) for path in (self.data / "shards").glob("*.tar"))


def random_square(width: int, height: int) -> tuple[int, int, int]:
    """x, y and side of a random square of 0.75 to 1 of the largest one's area."""
    side = round(min(width, height) * math.sqrt(random.uniform(LEAST_AREA, 1)))
    return random.randint(0, width - side), random.randint(0, height - side), side


def stored_size(size: int) -> int:
    """The shorter side at which shards for a training size are stored: its smallest crop is whole."""
    return math.ceil(size / LEAST_SIDE)
