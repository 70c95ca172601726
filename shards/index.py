"""Index shards that something else wrote: webdataset's ShardWriter, img2dataset, plain `tar cf`.

    python -m shards.index DIR

Writes `NAME.index.npy` beside each `NAME.tar` and, last, `manifest.json`; the tars stay as they are.
The split is the name without its trailing number: `val-000003.tar` is of `val`, `00003.tar` of
`train`. Members of one sample stand together and share the name up to the base name's first dot; what
follows it says what a member is: jpg, jpeg, png, webp (the sample's picture, the first of them) or
json. Of samples with one key in a tar the first counts; tars may share keys, their samples never mix.
What can't be used is named in skipped.jsonl.
"""

import json
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from dvae import __version__
from dvae.data.formats import MAX_BYTES, MAX_JSON_BYTES
from dvae.data.index import (
    SAMPLE,
    Shard,
    index_name,
    is_shard_name,
    write_index,
    write_shard_manifest,
)
from dvae.errors import UserError, exit_code_of
from dvae.files import MANIFEST, locked, sha256, whole_file
from shards import tar
from shards.options import Parser
from shards.output import is_unfinished
from shards.parallel import in_order
from shards.pictures import quiet, stored_orientation
from shards.sources import shown

SKIPPED = "skipped.jsonl"
_PICTURES = ("jpg", "jpeg", "png", "webp")
_NUMBER = re.compile(r"[-_.]?(\d+)(-of-\d+)?$", re.ASCII)
_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)  # WebDataset's: up to the first dot
_OUTSIDE = re.compile(r"/|(.*/)?\.\.(/|$)", re.DOTALL)  # starts a name that leads out of its folder


class Skipped(NamedTuple):
    """A member or sample that isn't used."""

    shard: str
    member: str
    offset: int  # bytes, of the member's data
    reason: str


_Skip = Callable[[tar.Member, str], None]


class Indexed(NamedTuple):
    """What one tar gave."""

    shard: Shard
    split: str
    skipped: list[Skipped]


def main(arguments: Sequence[str] | None = None) -> int:
    """Index a folder; returns the exit code."""
    parser = Parser(prog="python -m shards.index", description="Index WebDataset shards.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder that holds the tars")
    return exit_code_of(lambda: index(parser.parse_args(arguments).folder))


def index(folder: Path) -> None:
    """Index each tar of a folder and write its manifest; tells the user on stdout.

    Raises:
        UserError: no tar, a damaged tar, no sample, or a folder that can't be written to.
    """
    tars = _tars(folder)
    try:
        with locked(folder), quiet() as stderr:
            workers = min(os.cpu_count() or 1, 8)
            results = in_order(_index_tar, tars, workers)
            progress = tqdm(results, "indexing", len(tars), file=stderr, unit="shard", disable=None)
            made = list(progress)
            _write(folder, made)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be read or written ({error.strerror}): "
            f"mend that and run the command again"
        ) from None


def _tars(folder: Path) -> list[Path]:
    """The tars of a folder: by split, then by number."""
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is not a folder: give the folder that holds the tars")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if is_unfinished(folder):
        raise UserError(f"{str(folder)!r} is half packed: run its python -m shards.pack again")
    tars = [name for name in names if name.endswith(".tar") and not name.startswith(".")]
    if not tars:
        packed = [name for name in names if re.search(r"\.(tgz|tar\.\w+)$", name)]
        remedy = f"uncompress {packed[0]} and its like first" if packed else "give another folder"
        raise UserError(f"{str(folder)!r} holds no .tar: {remedy}")
    odd = [name for name in tars if not is_shard_name(name)]
    if odd:
        raise UserError(
            f"{str(folder)!r} holds {odd[0]!r}, a name that looks like a command, URL or pattern: "
            f"rename it to letters, digits, - and _"
        )
    return [folder / name for name in sorted(tars, key=_place)]


def _place(name: str) -> tuple[str, int, str]:
    number = _NUMBER.search(name.removesuffix(".tar"))
    return split_of(name), int(number[1]) if number else 0, name


def split_of(name: str) -> str:
    """`val-000003.tar` -> `val`; `00003.tar` -> `train`."""
    return _NUMBER.sub("", name.removesuffix(".tar")) or "train"


def samples_of(path: Path) -> tuple[np.ndarray, list[Skipped]]:
    """The samples of a tar, (n,) of `SAMPLE`, and the members that aren't used.

    Raises:
        UserError: a damaged tar.
    """
    skipped: list[Skipped] = []
    with path.open("rb") as file:
        rows = list(_rows(file, path, skipped))
    return np.array(rows, dtype=SAMPLE), skipped


def _index_tar(path: Path) -> Indexed:
    samples, skipped = samples_of(path)
    index_sha256 = write_index(path.parent / index_name(path.name), samples)
    shard = Shard(path.name, path.stat().st_size, sha256(path), len(samples), index_sha256)
    return Indexed(shard, split_of(path.name), skipped)


def _rows(file: BinaryIO, path: Path, skipped: list[Skipped]) -> Iterator[tuple[int, ...]]:
    """A row for each sample of a tar."""

    def skip(member: tar.Member, reason: str) -> None:
        name = shown(member.name.encode("utf-8", "surrogateescape"))
        skipped.append(Skipped(path.name, name, member.offset, reason))

    seen = set()
    for key, sample in groupby(_usable(file, path, skip), key=lambda member: parts_of(member)[0]):
        members = list(sample)
        pictures = [member for member in members if parts_of(member)[1] in _PICTURES]
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
            note = _note(file, [m for m in members if parts_of(m)[1] == "json"], skip)
            place = (whole[0].offset, whole[0].size)
            yield (*place, zlib.crc32(data), stored_orientation(data), *note)


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


def _note(file: BinaryIO, notes: list[tar.Member], skip: _Skip) -> tuple[int, int]:
    """Where the first JSON of a sample lies, and its size: 0, 0 where there is no valid one."""
    for member in notes[1:]:
        skip(member, "a further JSON of its sample")
    if not notes:
        return 0, 0
    first = notes[0]
    if first.size > MAX_JSON_BYTES:
        skip(first, "huge JSON")
        return 0, 0
    try:
        json.loads(os.pread(file.fileno(), first.size, first.offset))
    except (ValueError, RecursionError):
        skip(first, "damaged JSON")
        return 0, 0
    return first.offset, first.size


def parts_of(member: tar.Member) -> tuple[str, str]:
    """A member's key and its extension, lower case; what has no key is all key."""
    match = _KEY.fullmatch(member.name)
    if not match:
        return member.name, ""
    return match[1], match[2].lower()


def _write(folder: Path, made: list[Indexed]) -> None:
    splits: dict[str, list[Shard]] = {}
    for indexed in made:
        if indexed.shard.samples:
            splits.setdefault(indexed.split, []).append(indexed.shard)
    lost = [skipped for indexed in made for skipped in indexed.skipped]
    reasons = Counter(skipped.reason for skipped in lost)
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if not splits:
        raise UserError(
            f"{str(folder)!r} holds no sample with a member KEY.jpg, KEY.png or KEY.webp"
            f"{f' ({why})' if why else ''}: pack the pictures with python -m shards.pack"
        )
    with whole_file(folder / SKIPPED) as file:
        for skipped in lost:
            file.write(json.dumps(skipped._asdict(), sort_keys=True).encode() + b"\n")
    write_shard_manifest(folder, splits, _about(folder, splits))
    for name, shards in splits.items():
        count = sum(shard.samples for shard in shards)
        sys.stdout.write(f"split {name}: {count} samples in {len(shards)} shards\n")
    empty = [indexed.shard.name for indexed in made if not indexed.shard.samples]
    if empty:
        sys.stdout.write(f"without a sample, left out: {', '.join(empty[:5])} ({len(empty)})\n")
    if lost:
        sys.stdout.write(f"skipped: {why}: see {shown(os.fsencode(folder / SKIPPED))}\n")


def _about(folder: Path, splits: dict[str, list[Shard]]) -> dict[str, Any]:
    """What the packer's manifest says about these very tars, if there is one."""
    about = {"made_by": f"shards.index of dvae {__version__}"}
    try:
        old = json.loads((folder / MANIFEST).read_bytes())
        had = {shard["name"]: shard["sha256"] for s in old["splits"].values() for shard in s}
        kept = dict(old["about"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return about
    have = {shard.name: shard.sha256 for shards in splits.values() for shard in shards}
    return kept if had == have else about


if __name__ == "__main__":
    sys.exit(main())
