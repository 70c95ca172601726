"""Puts what became of the pictures where it belongs: into shards, rejected.jsonl and the journal."""

import json
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

from tqdm import tqdm

from shards.dedupe import DUPLICATES
from shards.journal import Done, Journal, Note
from shards.sources import Item, shown
from shards.writer import Full


class Sized(Protocol):
    """A sample, or what stands for one that lies elsewhere."""

    @property
    def blocks(self) -> int:
        """Bytes that it takes in a tar."""


class Writer(Protocol):
    """Receives the samples of a split."""

    samples: int

    def write(self, sample: Any) -> Full | None:
        """Append a sample; gives the shard that was full before it, to be called."""

    def close(self) -> Full | None:
        """End the shard that is open, if one is; gives it, to be called."""


class Packed(NamedTuple):
    """What became of one picture: a sample of a split, or why it's none.

    Without a sample and a reason, it stands in a shard that an earlier run wrote.
    """

    position: int
    item: Item
    split: str = ""
    sample: Sized | None = None
    reason: str = ""


Line = dict[str, str]  # of rejected.jsonl


def line_of(item: Item, reason: str) -> Line:
    """A picture's line in rejected.jsonl."""
    return {"source": shown(item.name), "reason": reason}


def _kind(reason: str) -> str:
    return reason.split(":")[0]


def lines_kept(old: Iterable[Line], new: Iterable[Line]) -> list[Line]:
    """The old lines that a new one doesn't replace, so that no loss is counted twice or not at all.

    A picture that is tried again has its name and its kind of reason again, or is a duplicate now, or
    was one: which picture of a group stands for it may change. Any other of its name is another one.
    """
    again = Counter((line["source"], _kind(line["reason"])) for line in new)
    left = []
    for line in old:
        key = line["source"], _kind(line["reason"])
        if again[key]:
            again[key] -= 1
        else:
            left.append(line)
    changed: Counter[tuple[str, bool]] = Counter()
    for (name, kind), count in again.items():
        changed[name, kind in DUPLICATES] += count
    kept = []
    for line in left:
        places = [(line["source"], True)]
        if _kind(line["reason"]) in DUPLICATES:
            places.append((line["source"], False))
        place = next((place for place in places if changed[place]), None)
        if place:
            changed[place] -= 1
        else:
            kept.append(line)
    return kept


class Assembly:
    """Takes the pictures in order.

    Args:
        writers: by split.
        rejected: the file that receives the lines of what is left out.
        journal: receives each finished shard.
        done: what an earlier run finished of these pictures.
        old: the lines of the set that is appended to.
    """

    def __init__(
        self,
        writers: Mapping[str, Writer],
        rejected: BinaryIO,
        journal: Journal,
        done: Done,
        old: Sequence[Line],
    ) -> None:
        self.labels = {label for entry in done.entries for label in entry.labels}
        self.reasons: Counter[str] = Counter()
        self._writers = writers
        self._rejected = rejected
        self._journal = journal
        self._known = done.reasons
        self._old = old
        self._old_names = {line["source"] for line in old}
        self._again: list[Line] = []  # new lines of those names
        self._new_places = array("Q")  # compact: there may be millions before a shard is full
        self._new_reasons: list[str] = []
        self._new_labels: set[str] = set()

    def take_all(
        self, results: Iterable[Packed], pictures: Sequence[Item], start: int, bar: tqdm
    ) -> int:
        """Take the results of the pictures from `start` on, and finish the shards.

        Args:
            results: in the order of the pictures.
            pictures: all of them.
            start: position of the first result; those before are in finished shards or left out.
            bar: a progress bar.

        Returns:
            How many old lines stay, each of a picture that isn't among these.
        """
        before = sorted(place for place in self._known if place < start)
        self._write_lines(line_of(pictures[place], self._known[place]) for place in before)
        for result in results:
            self._take(result)
            if not result.sample:
                bar.set_postfix(rejected=self.reasons.total(), refresh=False)
            bar.update()
        for split, writer in self._writers.items():
            self._note(split, writer.close(), len(pictures))
        self._journal.finish()
        kept = lines_kept(self._old, self._again)
        self._write_lines(kept)
        return len(kept)

    def _take(self, result: Packed) -> None:
        if result.sample:
            full = self._writers[result.split].write(result.sample)
            self._note(result.split, full, result.position)
            label = result.item.label
            if label is not None and label not in self.labels:
                self.labels.add(label)
                self._new_labels.add(label)
        elif result.reason:
            if result.position not in self._known:
                self._new_places.append(result.position)
                self._new_reasons.append(sys.intern(result.reason))
            self._write_lines([line_of(result.item, result.reason)])

    def _note(self, split: str, full: Full | None, end: int) -> None:
        """Have a full shard finished and journaled."""
        if full:
            labels = sorted(self._new_labels)
            self._journal.add(full, Note(split, end, self._new_places, self._new_reasons, labels))
            self._new_places, self._new_reasons, self._new_labels = array("Q"), [], set()

    def _write_lines(self, lines: Iterable[Line]) -> None:
        """Count pictures that are left out, and name them in rejected.jsonl."""
        for line in lines:
            self.reasons[_kind(line["reason"])] += 1
            if line["source"] in self._old_names:
                self._again.append(line)
            self._rejected.write(json.dumps(line, sort_keys=True).encode() + b"\n")
