"""Shards as columns: a manifest may name a million, and as objects they would take 600 bytes each."""

import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np

from dvae.files import whole_file

DIGEST = 32  # bytes of a SHA-256


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar and its index, as the manifest names them."""

    name: str
    bytes: int
    sha256: str
    samples: int
    index_sha256: str

    @property
    def index_name(self) -> str:
        """The name of the offset index beside the tar."""
        return index_name(self.name)


def index_name(shard_name: str) -> str:
    """`train-000000.tar` -> `train-000000.index.npy`."""
    return shard_name.removesuffix(".tar") + ".index.npy"


class ShardList(Sequence[Shard]):
    """Shards in their order, about 110 bytes each; a `Shard` is made when it's asked for."""

    def __init__(self, shards: Iterable[Shard] = ()) -> None:
        self._names = bytearray()  # UTF-8, end to end
        self._ends = array("q")  # of each name
        self._sha256, self._index_sha256 = bytearray(), bytearray()
        self._bytes, self._samples = array("q"), array("q")
        self.extend([asdict(shard) for shard in shards])

    def extend(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Append entries of a manifest.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: one lacks a value, or has a wrong one.
        """
        for entry in entries:
            self._names += entry["name"].encode()
            self._ends.append(len(self._names))
        self._bytes.extend([entry["bytes"] for entry in entries])
        self._samples.extend([entry["samples"] for entry in entries])
        self._sha256 += _digests([entry["sha256"] for entry in entries])
        self._index_sha256 += _digests([entry["index_sha256"] for entry in entries])

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, number: int) -> Shard: ...

    @overload
    def __getitem__(self, number: slice) -> "ShardList": ...

    def __getitem__(self, number: int | slice) -> "Shard | ShardList":
        if isinstance(number, slice):
            return ShardList(self[i] for i in range(len(self))[number])
        number = range(len(self))[number]  # from the end, or out of range
        digest = slice(number * DIGEST, (number + 1) * DIGEST)
        return Shard(
            self.name(number),
            self._bytes[number],
            self._sha256[digest].hex(),
            self._samples[number],
            self._index_sha256[digest].hex(),
        )

    def name(self, number: int) -> str:
        """The name of a shard."""
        start = self._ends[number - 1] if number else 0
        return self._names[start : self._ends[number]].decode()

    def named(self, name: str) -> Shard:
        """The shard of a name.

        Raises:
            KeyError: there is none.
        """
        numbers, places = self._by_name
        first, last = (np.searchsorted(numbers, hash(name), side) for side in ("left", "right"))
        for place in places[first:last].tolist():  # one, but for a rare chance
            if self.name(place) == name:
                return self[place]
        raise KeyError(name)

    @cached_property
    def _by_name(self) -> tuple[np.ndarray, np.ndarray]:
        """(S,) ascending numbers made of the names, and the place of each."""
        numbers = self.hashes()
        places = np.argsort(numbers)
        return numbers[places], places

    def hashes(self) -> np.ndarray:
        """(S,) int64 made of the names: what has the same name has the same number."""
        numbers = array("q", (hash(self.name(number)) for number in range(len(self))))
        return np.array(numbers, dtype=np.int64)

    @property
    def counts(self) -> np.ndarray:
        """Samples in each: (S,) int64."""
        return np.array(self._samples, dtype=np.int64)

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each tar: (S,) int64."""
        return np.array(self._bytes, dtype=np.int64)

    def lines(self) -> Iterator[str]:
        """Each as JSON with sorted keys."""
        encode = json.JSONEncoder().encode
        for number in range(len(self)):
            digest = slice(number * DIGEST, (number + 1) * DIGEST)
            yield (
                f'{{"bytes": {self._bytes[number]}, "index_sha256": "{self._index_sha256[digest].hex()}", '
                f'"name": {encode(self.name(number))}, "samples": {self._samples[number]}, '
                f'"sha256": "{self._sha256[digest].hex()}"}}'
            )


def write_shards(path: Path, lists: Iterable[ShardList]) -> None:
    """Write some shards as a whole file, a list in JSON."""
    lines = chain.from_iterable(shards.lines() for shards in lists)
    with whole_file(path) as file:
        file.write(b"[")
        for number, line in enumerate(lines):
            file.write(f"{',' * (number > 0)}\n {line}".encode())
        file.write(b"\n]\n")


def is_named_twice(lists: Collection[ShardList]) -> bool:
    """Whether any name is in some lists twice; of a million names only numbers are compared."""
    numbers = np.sort(np.concatenate([np.empty(0, int), *(shards.hashes() for shards in lists)]))
    if (numbers[1:] != numbers[:-1]).all():
        return False
    times = Counter(shards.name(i) for shards in lists for i in range(len(shards)))
    return max(times.values()) > 1


def _digests(texts: list[str]) -> bytes:
    joined = "".join(texts)
    digests = bytes.fromhex(joined)
    if digests.hex() != joined or {*map(len, texts)} - {2 * DIGEST}:
        raise ValueError("not SHA-256s in lower-case hexadecimal")
    return digests
