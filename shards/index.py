"""Index shards that something else wrote: webdataset's ShardWriter, img2dataset, plain `tar cf`.

    python -m shards.index DIR
    python -m shards.index DIR --images jpg,bmp
    python -m shards.index https://HOST/DIR OUT --names NAMES     (or s3://BUCKET/DIR OUT)

Writes `NAME.index.npy` beside each `NAME.tar` and, last, `manifest.json`; the tars stay as they are.
Of remote tars OUT gets the indexes and a manifest that says where the tars lie; OUT is then trained on.
The split is the name without its trailing number: `val-000003.tar` is of `val`, `00003.tar` of
`train`. Members of one sample stand together and share the name up to the base name's first dot; what
follows it says what a member is: jpg, jpeg, png, webp or what `--images` names (the sample's picture,
the first of them), and what is said about it: json, or cls or txt with its class. Of samples with one
key in a tar the first counts; tars may share keys, their samples never mix. What can't be used is named in skipped.jsonl.
"""

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dvae import __version__
from dvae.data.index import write_index
from dvae.data.location import has_secret
from dvae.data.location import shown as url_shown
from dvae.data.manifest import is_shard_name, write_shard_manifest
from dvae.data.shard_list import Shard, index_name
from dvae.data.storage import LocalStore, open_store
from dvae.errors import UserError, exit_code_of
from dvae.files import MANIFEST, locked, remove_unfinished, sha256, whole_file
from shards.foreign import NOTES, PICTURES, Skipped, samples_of
from shards.options import Parser
from shards.output import half_made
from shards.parallel import in_order
from shards.pictures import quiet
from shards.progress import progress
from shards.remote import downloaded, remote_names
from shards.sources import shown

SKIPPED = "skipped.jsonl"
_NUMBER = re.compile(r"[-_.]?(\d+)(-of-\d+)?$", re.ASCII)


class Indexed(NamedTuple):
    """What one tar gave."""

    shard: Shard
    split: str
    skipped: list[Skipped]


def main(arguments: Sequence[str] | None = None) -> int:
    """Index a folder; returns the exit code."""
    parser = Parser(prog="python -m shards.index", description="Index WebDataset shards.")
    add = parser.add_argument
    add("source", metavar="DIR", help="the folder that holds the tars, or the URL of a remote one")
    add("out", type=Path, nargs="?", metavar="OUT", help="of a remote one: where the index goes")
    add("--names", type=Path, metavar="FILE", help="of a remote one: its tars' names, one a line")
    parser.add_argument(
        "--images",
        type=_extensions,
        default=PICTURES,
        metavar="LIST",
        help="extensions of the members that are pictures (default jpg,jpeg,png,webp)",
    )

    def run() -> None:
        given = parser.parse_args(arguments)
        source = open_store(given.source)
        if isinstance(source, LocalStore):
            if given.out or given.names:
                raise UserError("OUT and --names are for remote tars: DIR is a local folder")
            index(source.folder, given.images)
        else:
            index_remote(given.source, given.out, given.names, given.images)

    return exit_code_of(run)


def _extensions(text: str) -> tuple[str, ...]:
    found = tuple(part.strip().lower().lstrip(".") for part in text.split(","))
    if not all(found) or set(found) & set(NOTES):
        raise argparse.ArgumentTypeError(f"{text!r}: give extensions of pictures, as jpg,png")
    return found


def index(folder: Path, images: Sequence[str] = PICTURES) -> None:
    """Index each tar of a folder and write its manifest; tells the user on stdout.

    Args:
        folder: that holds the tars.
        images: extensions of the members that are pictures, lower case.

    Raises:
        UserError: no tar, a damaged tar, no sample, or a folder that can't be written to.
    """
    tars = _tars(folder)
    _index_all(folder, tars, partial(_index_tar, images=images, out=folder))


def index_remote(url: str, out: Path | None, names: Path | None, images: Sequence[str]) -> None:
    """Index remote tars, each read once; `out` gets the indexes and a manifest; tells on stdout.

    Args:
        url: of their folder.
        out: a local folder; created.
        names: a file with their names, one a line; None where the store can list them.
        images: as of `index`.

    Raises:
        UserError: no names, a damaged or compressed tar, no sample, or an `out` that can't be used.
        StoreError: a tar that can't be read.
    """
    if out is None:
        raise UserError(f"{url_shown(url)} is remote: give a local folder OUT for its index")
    if has_secret(url):
        raise UserError(
            f"{url_shown(url)} holds credentials, which OUT would have to keep: put them into "
            "~/.netrc, and give the URL without them"
        )
    if any(out.glob("*.tar")):
        raise UserError(f"{str(out)!r} holds tars of its own: give another folder OUT")
    store = open_store(url)
    tars = sorted(remote_names(store, names), key=_place)

    def fetch_and_index(name: str) -> Indexed:
        with downloaded(store, name, out) as path:
            return _index_tar(path, images, out)

    _index_all(out, tars, fetch_and_index, store.shown)


_Tar = TypeVar("_Tar")


def _index_all(
    folder: Path, tars: Sequence[_Tar], index_one: Callable[[_Tar], Indexed], base: str = ""
) -> None:
    try:
        with locked(folder), quiet() as stderr:
            if base:
                remove_unfinished(folder)  # tars that a killed run was downloading
            workers = min(os.cpu_count() or 1, 8)
            results = in_order(index_one, tars, workers)
            made = list(progress("indexing", stderr, "shard", len(tars), items=results))
            _write(folder, made, base)
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
    if problem := half_made(folder):
        raise UserError(problem)
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


def _index_tar(path: Path, images: Sequence[str], out: Path) -> Indexed:
    samples, skipped = samples_of(path, images)
    index_sha256 = write_index(out / index_name(path.name), samples)
    shard = Shard(path.name, path.stat().st_size, sha256(path), len(samples), index_sha256)
    return Indexed(shard, split_of(path.name), skipped)


def _write(folder: Path, made: list[Indexed], base: str) -> None:
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
    write_shard_manifest(folder, splits, _about(folder, splits), base)
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
