"""What every kind of source is to the packer: a listing of pictures, and their bytes.

A source is a small value without open files: threads share it, other processes may be sent it.
"""

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple, Protocol

import numpy as np

from dvae import masking
from dvae.data.formats import SUFFIXES
from shards.geometry import Box

# Not macOS's `._` companions; dots that a base name starts with start no extension.
_SUFFIX = b"|".join(re.escape(suffix.encode()) for suffix in SUFFIXES)
_PICTURE = re.compile(rb"(?s:.*/)?(?!\._)\.*[^/.][^/]*(?:%s)" % _SUFFIX, re.IGNORECASE)


class Item(NamedTuple):
    """One picture of a source, unread."""

    name: bytes  # what the user knows it by; relative to the source
    size: int  # bytes; 0: the source can't say before reading
    label: str | None = None
    box: Box | None = None  # the source's own
    split: str | None = None  # the source's own
    place: int = 0  # where the source finds it; means something to the source only


class Source(Protocol):
    """A place that pictures are packed from."""

    def items(self, ignored: Counter[str]) -> Iterator[Item]:
        """List the pictures; where two have the same name, in the same order each time.

        Args:
            ignored: receives how many other things of each kind there are.

        Raises:
            UserError: the source can't be listed.
        """
        ...

    def read(self, item: Item) -> bytes:
        """A picture's bytes; called from several threads at once.

        Raises:
            PictureError: it's gone, damaged or too large.
        """
        ...


class Tree(Protocol):
    """Files under names with `/`: a folder or an archive."""

    def files(self, ignored: Counter[str]) -> Iterator[Item]:
        """List the plain files, pictures or not; as `Source.items` otherwise."""
        ...

    def read(self, item: Item) -> bytes:
        """A file's bytes; as `Source.read`."""
        ...


@dataclass(frozen=True)
class Plain:
    """The pictures of a tree as they lie; the sub-folder is the label."""

    tree: Tree

    def items(self, ignored: Counter[str]) -> Iterator[Item]:
        """The files with a picture's extension."""
        for file in self.tree.files(ignored):
            if has_picture_name(file.name):
                yield Item(file.name, file.size, label_of(file.name), place=file.place)
            else:
                ignored["other files"] += 1

    def read(self, item: Item) -> bytes:
        """The bytes of a picture of `items`."""
        return self.tree.read(item)


@dataclass
class Listing:
    """What a source holds: pictures in no particular order, and how many other things by kind."""

    pictures: list[Item] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def digest(self) -> str:
        """SHA-256 over what is known of the pictures before reading them, sorted."""
        digest = hashlib.sha256()
        # By name first, which takes no memory; the few of one name, by what they are.
        by_name = sorted(self.pictures, key=attrgetter("name"))
        for _, group in groupby(by_name, key=attrgetter("name")):
            digest.update(b"".join(sorted(map(_line, group))))
        return digest.hexdigest()

    @property
    def splits(self) -> set[str | None]:
        """The pictures' own splits; None is in it if some have none."""
        return {item.split for item in self.pictures}


def _line(item: Item) -> bytes:
    line = b"%d %d %s\n" % (item.size, len(item.name), item.name)
    if item.box or item.split or item.label != label_of(item.name):
        line += repr((item.label, item.box, item.split)).encode()
    return line


def list_items(source: Source) -> Listing:
    """All that a source holds.

    Raises:
        UserError: it can't be listed.
    """
    listing = Listing()
    listing.pictures.extend(source.items(listing.ignored))
    return listing


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """The pictures in the order of SHA-256(seed, name): mixed over labels, the same everywhere."""
    start = b"%d\n" % seed
    # Digests side by side, and half of each: a million of them as objects would be 80 MB.
    digests = bytearray()
    for item in items:
        digests += hashlib.sha256(start + item.name).digest()[:16]
    order = np.argsort(np.frombuffer(digests, "S16"), kind="stable")
    return [items[place] for place in order]


def has_picture_name(name: bytes) -> bool:
    """Whether a file's name ends like a picture's; macOS's `._` companions do, and are none."""
    return _PICTURE.fullmatch(name) is not None


def shown(name: bytes) -> str:
    r"""A file's name or URL as text, without secrets; bytes that aren't UTF-8 appear as `\xff`."""
    return masking.shown(name.decode("utf-8", "backslashreplace"))


def label_of(name: bytes) -> str | None:
    """The sub-folder that a picture lies in, with `/` between levels; None directly in the source."""
    folder = os.path.dirname(name)
    return sys.intern(shown(folder)) if folder else None


def inner_name(name: bytes) -> bytes:
    """An archive member's name without `.`, `..` and empty steps: it can't lead out of a folder."""
    return b"/".join(step for step in name.split(b"/") if step not in (b"", b".", b".."))


def is_hidden(name: bytes) -> bool:
    """Whether a file lies in a folder whose name starts with a dot."""
    return any(step.startswith(b".") for step in name.split(b"/")[:-1])
