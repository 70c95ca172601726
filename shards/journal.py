"""What a packing run has finished so far, so that the next one goes on where it was killed.

Each finished shard has an entry, `.journal-000007.json`, a whole file of its own: writing one costs the
same however many there are. An entry names the options by their digest; one of other options is none.
Positions count the pictures in the order that they are packed in.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

from dvae.data.index import read_index
from dvae.data.manifest import Shard, is_shard_name
from dvae.errors import UserError
from dvae.files import write_json
from shards.damage import tar_damage
from shards.parallel import in_order
from shards.place import Place
from shards.writer import Full

FORMAT = 2  # of the shards; what an earlier version left unfinished begins anew


class Note(NamedTuple):
    """What else had become of the pictures when a shard was full."""

    split: str
    end: int  # position of the first picture of the split that's in none of its finished shards
    left_out: Sequence[int]  # positions of the pictures left out since the last one
    reasons: Sequence[str]  # why, one each
    labels: Sequence[str]  # first met since the last one


class Entry(NamedTuple):
    """A finished shard, and its note."""

    shard: Shard
    split: str
    end: int
    left_out: Sequence[int]
    reasons: Sequence[str]
    labels: Sequence[str]


@dataclass(frozen=True)
class Done:
    """All that an earlier run finished."""

    entries: tuple[Entry, ...] = ()

    def shards(self, split: str) -> list[Shard]:
        """The finished shards of a split."""
        return [entry.shard for entry in self.entries if entry.split == split]

    def end(self, split: str) -> int:
        """Pictures of the split before this position are in its finished shards."""
        return max((entry.end for entry in self.entries if entry.split == split), default=0)

    @cached_property
    def reasons(self) -> dict[int, str]:
        """Why the pictures that are known to be left out are, by position."""
        return {
            place: reason
            for entry in self.entries
            for place, reason in zip(entry.left_out, entry.reasons, strict=True)
        }


class Journal:
    """Has full shards finished, in order and on a thread, and adds their entries to a folder.

    Context manager: leaving it waits for the thread.

    Args:
        folder: of the entries.
        options: the digest of this run's.
        first: number of the first entry.
        most: full shards that may wait, beside those that are being filled.
    """

    def __init__(self, folder: Path, options: str, first: int, most: int) -> None:
        self.shards: dict[str, list[Shard]] = {}  # finished ones, by split
        self._folder = folder
        self._options = options
        self._next = first
        self._most = most
        self._is_next = True  # all before are journaled; false for ever once one has failed
        self._thread = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def add(self, full: Full, note: Note) -> None:
        """Have a shard finished; waits if too many aren't, and raises what one of them raised."""
        self._pending.append(self._thread.submit(self._finish, full, note))
        pending = self._pending
        while len(pending) > self._most or (pending and pending[0].done()):
            pending.popleft().result()

    def finish(self) -> None:
        """Wait for all shards."""
        while self._pending:
            self._pending.popleft().result()

    def _finish(self, full: Full, note: Note) -> None:
        is_next, self._is_next = self._is_next, False
        shard = full()  # after a failure too: it leaves a whole file, or none
        if not is_next:
            return
        value = note._asdict() | {"shard": asdict(shard), "options": self._options}
        value["left_out"] = list(note.left_out)
        write_json(self._folder / journal_name(self._next), value)
        self._next += 1
        self.shards.setdefault(note.split, []).append(shard)
        self._is_next = True


def journal_name(number: int) -> str:
    """Of an entry's file."""
    return f".journal-{number:06d}.json"


def count_entries(folder: Path) -> int:
    """How many shards of an unfinished packing are finished."""
    return sum(1 for _ in folder.glob(".journal-*.json"))


def read_done(place: Place, options: str) -> Done:
    """The entries whose shards and indexes are still what they say, up to the first that isn't.

    Args:
        place: where the shards are.
        options: the digest of this run's.
    """
    entries: list[Entry] = []
    while entry := _read(place.folder / journal_name(len(entries)), options):
        entries.append(entry)
    intact = in_order(lambda entry: _is_intact(place, entry.shard), entries, os.cpu_count() or 1)
    for number, is_intact in enumerate(intact):
        if not is_intact:
            return Done(tuple(entries[:number]))
    return Done(tuple(entries))


def _read(path: Path, options: str) -> Entry | None:
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
        if value.pop("options") != options:
            return None
        return Entry(shard=Shard(**value.pop("shard")), **value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _is_intact(place: Place, shard: Shard) -> bool:
    if not is_shard_name(shard.name):
        return False
    if not place.url and tar_damage(place.folder / shard.name, shard):
        return False
    try:
        read_index(place.store, shard)
        return place.store.size(shard.name) == shard.bytes
    except UserError:
        return False


def digest_of(options: dict[str, Any], manifest: str) -> str:
    """What the entries of a run are told by.

    Args:
        options: that determine the bytes of the shards.
        manifest: SHA-256 of that of the finished set that is appended to.
    """
    text = json.dumps([options, manifest, FORMAT], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
