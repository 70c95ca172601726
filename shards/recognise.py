"""Tells what a SOURCE is by what it holds, or takes `--layout`'s word for it."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dvae.errors import UserError
from shards.archives import Tars, Zip
from shards.columns import Columns, find_columns
from shards.folder import Folder
from shards.layouts import FOLDER, LAYOUTS, SHARDS, Layout
from shards.lists import SUFFIXES as LISTS
from shards.lists import PictureList
from shards.notes import Notes
from shards.sources import Item, Plain, Source, Tree, has_picture_name
from shards.webdataset_shards import WebDatasetShards

# What no layout's files begin with, below a top folder or not, isn't matched against each of them.
_MAYBE = re.compile(
    r"([^/]+/)?(Images/n|images/|annotations/|train/|val/|test/|labels\.csv|dog\.\d|low-res|high-res)"
)


@dataclass(frozen=True)
class DataSet:
    """The pictures of a tree that has a known layout, below `prefix`."""

    tree: Tree
    layout: Layout
    prefix: bytes

    def items(self, ignored: Counter[str]) -> Iterator[Item]:
        """The pictures that the layout has, with their class, split and box.

        Raises:
            UserError: a list of the data set is damaged.
        """
        notes = {
            name: file
            for file in self._files(Counter())
            if re.fullmatch(self.layout.notes, name := os.fsdecode(file.name))
        }
        describe = self.layout.describe(Notes(self.read, notes, ignored))
        pictures = re.compile(self.layout.pictures)
        for file in self._files(ignored):
            name = os.fsdecode(file.name)
            match = pictures.fullmatch(name)
            known = describe(match) if match else "other files"
            if not isinstance(known, str):
                yield file._replace(label=known.label, split=known.split, box=known.box)
            elif name not in notes:
                ignored[known] += 1

    def read(self, item: Item) -> bytes:
        """The bytes of a picture of `items`."""
        return self.tree.read(item._replace(name=self.prefix + item.name))

    def _files(self, ignored: Counter[str]) -> Iterator[Item]:
        """The files below the prefix, named without it."""
        for file in self.tree.files(ignored):
            if file.name.startswith(self.prefix):
                yield file._replace(name=file.name[len(self.prefix) :])
            else:
                ignored["other files"] += 1


def open_source(
    location: Path | str, layout: str | None = None, staging: Path | None = None
) -> tuple[str, Source]:
    """What SOURCE is, and how to read it.

    Args:
        location: a folder, a list, an archive, a parquet file; or the URL of one.
        layout: one of NAMES; None: it's recognised.
        staging: where copies of remote files go.

    Raises:
        UserError: there's nothing, or nothing that is known, or it hasn't the layout.
    """
    if isinstance(location, str):
        from shards.remote_source import find_remote  # and fsspec, which local packing does without

        there = find_remote(location, staging)
        if not isinstance(there, Path):
            return _of_tree(there, layout, location)
        location = there
    return _open_local(location, layout)


def _open_local(path: Path, layout: str | None) -> tuple[str, Source]:
    if path.is_file() and path.suffix.lower() in LISTS:
        return "list", PictureList(path)
    columns = (path,) if path.suffix.lower() == ".parquet" else find_columns(path)
    if columns and layout is None:
        return "parquet", Columns(columns)
    tars = _tars(path)
    if tars and layout == SHARDS:
        return SHARDS, WebDatasetShards(tars)
    kind, source = _of_tree(_tree(path, tars), layout, str(path))
    is_plain = kind == FOLDER and layout is None
    return (
        (SHARDS, WebDatasetShards(tars)) if is_plain and tars and path.is_dir() else (kind, source)
    )


def _of_tree(tree: Tree, layout: str | None, shown: str) -> tuple[str, Source]:
    if layout == FOLDER:
        return FOLDER, Plain(tree)
    data_set = _recognised(tree, layout)
    if data_set:
        return data_set.layout.name, data_set
    if layout:
        raise UserError(f"SOURCE {shown!r} has not the layout {layout}: leave --layout out")
    return FOLDER, Plain(tree)


def _tars(path: Path) -> tuple[Path, ...]:
    """A tar itself, or the tars that a folder holds instead of pictures and folders."""
    if path.suffix == ".tar" and path.is_file():
        return (path,)
    if not path.is_dir():
        return ()
    tars = []
    with os.scandir(path) as entries:  # not as a list: there may be millions
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir() or has_picture_name(os.fsencode(entry.name)):
                return ()
            if entry.name.endswith(".tar") and entry.is_file():
                tars.append(Path(entry.path))
    return tuple(sorted(tars))


def _tree(path: Path, tars: tuple[Path, ...]) -> Tree:
    if tars:
        return Tars(tars)
    if path.is_file() and path.suffix.lower() == ".zip":
        return Zip(path)
    if path.is_file():
        raise UserError(
            f"SOURCE {str(path)!r} is not a folder, a list ({', '.join(LISTS)}), a .tar, a .zip or "
            f"a .parquet; compressed tars have to be uncompressed first: give one of these"
        )
    return Folder(path)


def _recognised(tree: Tree, name: str | None) -> DataSet | None:
    """The first layout that has all its marks and a fair part of the pictures, or None.

    A data set may lie in a top folder of the tree. An archive of trimaps or unlabelled pictures may
    hold more pictures than the layout's own, so that a third of them is enough.
    """
    candidates: dict[tuple[int, str], _Candidate] = {}
    total = 0
    for file in _names(tree):
        total += has_picture_name(file)
        text = os.fsdecode(file)
        if not _MAYBE.match(text):
            continue
        for prefix in {"", text[: text.find("/") + 1]}:
            for number, layout in enumerate(LAYOUTS):
                if name in (None, layout.name):
                    place = (number, prefix)
                    candidates.setdefault(place, _Candidate(layout)).see(text[len(prefix) :])
    for (number, prefix), candidate in sorted(candidates.items(), key=lambda pair: pair[0]):
        if not candidate.missing and 3 * candidate.pictures >= total:
            return DataSet(tree, LAYOUTS[number], os.fsencode(prefix))
    return None


def _names(tree: Tree) -> Iterator[bytes]:
    if isinstance(tree, Folder):
        return tree.names()
    return (file.name for file in tree.files(Counter()))


class _Candidate:
    """What speaks for a layout."""

    def __init__(self, layout: Layout) -> None:
        self.missing = set(layout.marks)
        self.pictures = 0
        self._layout = layout

    def see(self, name: str) -> None:
        """Take a file into account."""
        self.missing -= {mark for mark in self.missing if re.fullmatch(mark, name)}
        self.pictures += bool(re.fullmatch(self._layout.pictures, name))
