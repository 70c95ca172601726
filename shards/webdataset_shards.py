"""Existing WebDataset shards, to be packed again: by us, by ShardWriter, by img2dataset.

Members of one sample stand together and share the name up to its first dot. The first picture is the
sample's; its label is `label` of the JSON, else the text of a `cls` member; its split is the shard's
name without its number. In our own shards the JSON's `source` is the picture's name, so that packing
untouched pictures again, with the same options, gives the same bytes.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from dvae.files import MANIFEST
from shards.archives import Tars, read_range
from shards.index import split_of
from shards.sources import Item, has_picture_name, shown

_MAX_NOTE = 1 << 20  # bytes of a JSON or class that is read


@dataclass(frozen=True)
class WebDatasetShards:
    """The samples of some tars."""

    paths: tuple[Path, ...]

    def items(self, ignored: Counter[str]) -> Iterator[Item]:
        """The samples that have a picture.

        Raises:
            UserError: a tar is damaged; names the byte.
        """
        is_ours = _is_ours(self.paths[0].parent)
        for start, path in zip(self._tars.starts, self.paths, strict=True):
            files = Tars((path,)).files(ignored)
            split = split_of(path.name)
            for _, group in groupby(files, key=lambda file: _parts(file.name)[0]):
                sample = list(group)
                pictures = [file for file in sample if has_picture_name(file.name)]
                for _ in pictures[1:]:
                    ignored["further pictures of a sample"] += 1
                if not pictures:
                    ignored["samples without a picture"] += 1
                else:
                    about = _about(path, sample)
                    name = os.fsencode(path.name) + b"/" + pictures[0].name
                    if is_ours and isinstance(about.get("source"), str):
                        name = about["source"].encode("utf-8", "surrogatepass")
                    place = start + pictures[0].place
                    yield Item(name, pictures[0].size, _label(about), None, split, place)

    def read(self, item: Item) -> bytes:
        """The bytes of a sample's picture."""
        return self._tars.read(item)

    @cached_property
    def _tars(self) -> Tars:
        return Tars(self.paths)


def _is_ours(folder: Path) -> bool:
    try:
        made_by = json.loads((folder / MANIFEST).read_bytes())["about"]["made_by"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(made_by, str) and made_by.startswith("shards.pack ")


def _parts(name: bytes) -> tuple[bytes, bytes]:
    """A member's key and the rest of its name, lower case."""
    folder, base = os.path.split(name)
    key, _, kind = base.partition(b".")
    return os.path.join(folder, key), kind.lower()


def _about(path: Path, sample: list[Item]) -> dict[str, Any]:
    """What the JSON of a sample says, and its class as `label` if the JSON has none."""
    named: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for file in sample:
        kind = _parts(file.name)[1]
        if kind not in (b"json", b"cls") or file.size > _MAX_NOTE:
            continue
        data = read_range(path, file.place, file.size)
        if kind == b"cls":
            named = {"label": shown(data).strip()}
        else:
            about |= _object(data)
    return named | {key: value for key, value in about.items() if value is not None}


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _label(about: dict[str, Any]) -> str | None:
    label = about.get("label")
    return str(label) if isinstance(label, str | int) and label != "" else None
