"""What a packing run has finished so far, so that the next one goes on where it was killed.

Each finished shard has an entry, `.journal-000007.json`, a whole file of its own: writing one costs the
same however many there are. An entry names the options by their digest; one of other options is none.
Positions count the pictures in the order that they are packed in.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from dvae.data.manifest import Shard
from dvae.files import sha256, write_json
from shards.damage import tar_damage
from shards.parallel import in_order


class Entry(NamedTuple):
    """A finished shard, and what else had become of the pictures when it was."""

    split: str
    shard: Shard
    end: int  # position of the first picture of the split that's in none of its finished shards
    left_out: Sequence[int]  # positions of the pictures left out since the last entry
    reasons: Sequence[str]  # why, one each
    labels: Sequence[str]  # first met since the last entry


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
    """Adds entries to a folder, numbered from the `first`."""

    def __init__(self, folder: Path, options: str, first: int) -> None:
        self._folder = folder
        self._options = options
        self._next = first

    def add(self, entry: Entry) -> None:
        """Note that a shard is finished."""
        value = entry._asdict() | {"shard": asdict(entry.shard), "options": self._options}
        value["left_out"] = list(entry.left_out)
        write_json(self._folder / journal_name(self._next), value)
        self._next += 1


def journal_name(number: int) -> str:
    """Of an entry's file."""
    return f".journal-{number:06d}.json"


def read_done(folder: Path, options: str) -> Done:
    """The entries whose shards and indexes are still what they say, up to the first that isn't.

    Args:
        folder: where the shards are.
        options: the digest of this run's.
    """
    entries: list[Entry] = []
    while entry := _read(folder / journal_name(len(entries)), options):
        entries.append(entry)
    intact = in_order(lambda entry: _is_intact(folder, entry.shard), entries, os.cpu_count() or 1)
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


def _is_intact(folder: Path, shard: Shard) -> bool:
    if Path(shard.name).name != shard.name or tar_damage(folder / shard.name, shard):
        return False
    try:
        return sha256(folder / shard.index_name) == shard.index_sha256
    except OSError:
        return False


def digest_of(options: dict[str, Any], manifest: str) -> str:
    """What the entries of a run are told by.

    Args:
        options: that determine the bytes of the shards.
        manifest: SHA-256 of that of the finished set that is appended to.
    """
    text = json.dumps([options, manifest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
