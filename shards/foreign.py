"""What the members of somebody else's tar are: which are samples, and what is said about them."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from isal.isal_zlib import crc32

from dvae.data.formats import MAX_BYTES, MAX_JSON_BYTES
from dvae.data.index import SAMPLE
from shards import tar
from shards.pictures import stored_orientation
from shards.sources import shown

PICTURES = ("jpg", "jpeg", "png", "webp")
NOTES = ("json", "cls", "txt")
_MAX_CLASS = 200  # bytes of a class
_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)  # WebDataset's: up to the first dot
_OUTSIDE = re.compile(r"/|(.*/)?\.\.(/|$)", re.DOTALL)  # starts a name that leads out of its folder


class Skipped(NamedTuple):
    """A member or sample that isn't used."""

    shard: str
    member: str
    offset: int  # bytes, of the member's data
    reason: str


_Skip = Callable[[tar.Member, str], None]


def samples_of(path: Path, images: Sequence[str] = PICTURES) -> tuple[np.ndarray, list[Skipped]]:
    """The samples of a tar, (n,) of `SAMPLE`, and the members that aren't used.

    Args:
        path: of the tar.
        images: extensions of the members that are pictures, lower case.

    Raises:
        UserError: a damaged tar.
    """
    skipped: list[Skipped] = []
    with path.open("rb") as file:
        rows = list(_rows(file, path, images, skipped))
    return np.array(rows, dtype=SAMPLE), skipped


def _rows(
    file: BinaryIO, path: Path, images: Sequence[str], skipped: list[Skipped]
) -> Iterator[tuple[int, ...]]:
    """A row for each sample of a tar."""

    def skip(member: tar.Member, reason: str) -> None:
        name = shown(member.name.encode("utf-8", "surrogateescape"))
        skipped.append(Skipped(path.name, name, member.offset, reason))

    seen = set()
    for key, sample in groupby(_usable(file, path, skip), key=lambda member: parts_of(member)[0]):
        members = list(sample)
        pictures = [member for member in members if parts_of(member)[1] in images]
        whole = [member for member in pictures if 0 < member.size <= MAX_BYTES]
        if not whole:
            skip(members[0], "empty or huge picture" if pictures else "sample without a picture")
        elif key in seen:
            skip(members[0], "an earlier sample has its key")
        else:
            seen.add(key)
            for member in pictures:
                if member is not whole[0]:
                    skip(member, "a further picture of its sample")
            data = os.pread(file.fileno(), whole[0].size, whole[0].offset)
            note = _note(file, members, skip)
            place = (whole[0].offset, whole[0].size)
            yield (*place, crc32(data), stored_orientation(data), *note)


def _usable(file: BinaryIO, path: Path, skip: _Skip) -> Iterator[tar.Member]:
    """The members that may be a part of a sample."""
    for member in tar.members(file, str(path)):
        if not member.is_regular:
            if not member.name.endswith("/"):
                skip(member, "not a plain file")
        elif _OUTSIDE.match(member.name):
            skip(member, "a name that leads out of its folder")
        elif not _KEY.fullmatch(member.name):
            skip(member, "no key")
        else:
            yield member


def _note(file: BinaryIO, members: list[tar.Member], skip: _Skip) -> tuple[int, int, int]:
    """Where what is said about a sample lies, its size and CRC-32; zeros without any.

    A JSON that names the label goes first, then a class, another JSON, a text.
    """
    notes = {kind: [m for m in members if parts_of(m)[1] == kind] for kind in NOTES}
    for member in notes["json"][1:]:
        skip(member, "a further JSON of its sample")
    found = {kind: _read_note(file, kind, notes[kind][0], skip) for kind in NOTES if notes[kind]}
    says_label = b'"label"' in found.get("json", b"")
    kinds = ("json", "cls", "txt") if says_label else ("cls", "json", "txt")
    for kind in kinds:
        if found.get(kind):
            return notes[kind][0].offset, notes[kind][0].size, crc32(found[kind])
    return 0, 0, 0


def _read_note(file: BinaryIO, kind: str, member: tar.Member, skip: _Skip) -> bytes:
    """The bytes of a JSON, class or text; none if it can't be used."""
    if member.size > (MAX_JSON_BYTES if kind == "json" else _MAX_CLASS):
        if kind != "txt":  # a long text is a caption, no class
            skip(member, f"huge {kind.upper()}")
        return b""
    data = os.pread(file.fileno(), member.size, member.offset)
    try:
        if kind == "json":
            json.loads(data)
        else:
            data.decode()
    except (ValueError, RecursionError):
        skip(member, f"damaged {kind.upper()}")
        return b""
    return data


def parts_of(member: tar.Member) -> tuple[str, str]:
    """A member's key and its extension, lower case; what has no key is all key."""
    match = _KEY.fullmatch(member.name)
    if not match:
        return member.name, ""
    return match[1], match[2].lower()
