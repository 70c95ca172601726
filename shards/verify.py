"""Check a folder of shards against its manifest, in parallel.

    python -m shards.verify DIR [--repair-index]
    python -m shards.verify https://HOST/DIR     (or s3://BUCKET/DIR)

Sizes and SHA-256 of each tar and index, the CRC-32 of each picture, that its JSON is JSON and agrees
with the picture's SHA-256 where it names one, that no key stands twice in a split, that the counts
add up, and the list of what was left out. Exit code 0: all right; 3: it falls short, and stdout has a
line for each thing that does, `FILE: WHAT: REMEDY`. `--repair-index` makes damaged indexes anew from
tars that are right. Remote shards come to the temporary folder (TMPDIR), a few at a time.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dvae.data.index import read_index
from dvae.data.manifest import MAX_MANIFEST, Shard, Split, read_splits
from dvae.data.objects import ObjectStore
from dvae.data.storage import PIECE, LocalStore, Store, StoreError, open_store, pieces_of
from dvae.errors import DataError, UserError, exit_code_of
from dvae.files import MANIFEST
from shards.damage import COPY, Checked, Problem, check_shard, sample_keys
from shards.options import Parser
from shards.output import REJECTED, half_made
from shards.parallel import in_order
from shards.pictures import quiet
from shards.progress import progress
from shards.remote import downloaded
from shards.sources import shown

_Opened = Callable[[Shard], AbstractContextManager[Path]]  # a local folder with a shard, its index


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify; returns the exit code."""
    parser = Parser(prog="python -m shards.verify", description="Check shards by their manifest.")
    add = parser.add_argument
    add("folder", metavar="DIR", help="folder that holds the shards, or the URL of a remote one")
    add("--repair-index", action="store_true", help="make damaged indexes anew from intact tars")
    return exit_code_of(lambda: _command(**vars(parser.parse_args(arguments))))


def _command(folder: str, repair_index: bool) -> None:
    store = open_store(folder)
    if repair_index and not isinstance(store, LocalStore):
        raise UserError(
            f"--repair-index writes, and {store.shown} is remote: copy it, and repair that"
        )
    splits = manifest_of(store)
    with quiet() as stderr, tempfile.TemporaryDirectory(prefix="verify-") as temporary:
        total = sum(shard.bytes for split in splits.values() for shard in split.shards)
        with progress("verifying", stderr, "B", total) as bar:
            problems = verify(store, splits, repair_index, bar, Path(temporary))
    for problem in problems:
        sys.stdout.write(shown(os.fsencode(": ".join(problem))) + "\n")
    if problems:
        raise DataError(
            f"{store.shown} falls short of its {MANIFEST}: {len(problems)} things, see the list"
        )
    count = sum(len(split.shards) for split in splits.values())
    samples = sum(int(split.counts.sum()) for split in splits.values())
    sys.stdout.write(f"all right: {samples} samples in {count} shards, {total} bytes\n")


def manifest_of(store: Store) -> dict[str, Split]:
    """The splits of a folder of shards.

    Raises:
        UserError: no such folder.
        DataError: it's half packed, or its manifest is missing or damaged.
    """
    if isinstance(store, LocalStore) and not store.folder.is_dir():
        raise UserError(f"{store.shown!r} is not a folder: give the folder that holds the shards")
    try:
        splits = read_splits(store)
    except UserError as error:
        raise DataError(half_made(store) or str(error)) from None
    if problem := half_made(store):
        raise DataError(problem)
    return splits


def verify(
    store: Store, splits: dict[str, Split], repair: bool, bar: tqdm, temporary: Path
) -> list[Problem]:
    """Everything in which a folder falls short of its manifest.

    Args:
        store: the folder.
        splits: what its manifest names.
        repair: write indexes anew where the tar is right and the index isn't; of a local one.
        bar: shows the bytes checked.
        temporary: a folder that remote shards come to.
    """
    problems = _check_names(store, splits) + _check_counts(store, splits)
    for split in splits.values():
        opened = partial(_opened, split, temporary)
        results = []
        check = partial(_check, opened, repair)
        for result in in_order(check, split.shards, min(os.cpu_count() or 1, 8)):
            bar.update(result.shard.bytes)
            problems += result.problems
            results.append(result)
        problems += _check_keys(opened, results)
    return problems


def _opened(split: Split, temporary: Path, shard: Shard) -> AbstractContextManager[Path]:
    if isinstance(split.tars, LocalStore) and split.tars is split.store:
        return nullcontext(split.tars.folder)
    return _fetched(split, temporary, shard)


@contextmanager
def _fetched(split: Split, temporary: Path, shard: Shard) -> Iterator[Path]:
    limit = shard.bytes + PIECE  # bytes; an index is smaller than its tar
    with downloaded(split.tars, shard.name, temporary) as tar:
        (tar.parent / shard.index_name).write_bytes(split.store.read_whole(shard.index_name, limit))
        yield tar.parent


def _check(opened: _Opened, repair: bool, shard: Shard) -> Checked:
    try:
        with opened(shard) as folder:
            return check_shard(folder, repair, shard)
    except (StoreError, UserError) as error:
        return Checked(shard, [Problem(shard.name, str(error), COPY)], np.zeros(0, np.uint64))


def _check_names(store: Store, splits: dict[str, Split]) -> list[Problem]:
    """Tars that the manifest names twice, or doesn't name; a web server can't be asked for others."""
    named = Counter(shard.name for split in splits.values() for shard in split.shards)
    twice = [name for name, count in named.items() if count > 1]
    strays = sorted(name for name in _tars(store) if name not in named)
    remedy = "delete it, or run python -m shards.index if it belongs here"
    return [
        *(Problem(name, f"is named twice by {MANIFEST}", COPY) for name in twice),
        *(Problem(name, f"is not named by {MANIFEST}", remedy) for name in strays),
    ]


def _tars(store: Store) -> list[str]:
    if isinstance(store, LocalStore):
        return [path.name for path in store.folder.glob("[!.]*.tar")]
    there = store.names() if isinstance(store, ObjectStore) else []
    return [name for name in there if name.endswith(".tar")]


def _check_counts(store: Store, splits: dict[str, Split]) -> list[Problem]:
    """The packer's counts against the shards' and against the list of what was left out."""
    about = json.loads(store.read_whole(MANIFEST, MAX_MANIFEST)).get("about")
    counts = about.get("counts") if isinstance(about, dict) else None
    if not isinstance(counts, dict):
        return []
    kinds = ("found", "packed", "rejected", "duplicates")
    told = [counts.get(kind, 0) for kind in kinds]
    if not all(isinstance(count, int) for count in told):
        return [Problem(MANIFEST, "has counts that are no whole numbers", COPY)]
    problems = []
    found, packed, rejected, duplicates = told
    held = sum(int(split.counts.sum()) for split in splits.values())
    if packed != held:
        what = f"counts {packed} packed pictures, and its shards hold {held}"
        problems.append(Problem(MANIFEST, what, COPY))
    if found != packed + rejected + duplicates:
        parts = f"{packed} packed, {rejected} rejected and {duplicates} duplicates"
        what = f"counts {found} pictures found, and {parts}"
        problems.append(Problem(MANIFEST, what, COPY))
    return problems + _check_rejected(store, rejected + duplicates, about.get("rejected_sha256"))


def _check_rejected(store: Store, left_out: int, sha256: str | None) -> list[Problem]:
    """The list of what was left out; a set packed by an older version has no SHA-256 of it."""
    lines, digest = 0, hashlib.sha256()
    try:
        for piece in pieces_of(store, REJECTED, store.size(REJECTED)):
            lines += piece.count(b"\n")
            digest.update(piece)
    except StoreError as error:
        return [Problem(REJECTED, f"cannot be read ({error})", COPY)]
    if lines != left_out:
        what = f"has {lines} lines, and {MANIFEST} counts {left_out} pictures left out"
        return [Problem(REJECTED, what, COPY)]
    if sha256 and digest.hexdigest() != sha256:
        what = f"does not have the SHA-256 that {MANIFEST} names"
        return [Problem(REJECTED, what, COPY)]
    return []


def _check_keys(opened: _Opened, results: list[Checked]) -> list[Problem]:
    """Keys that stand twice in a split; names are read again only where two digests are equal."""
    digests, counts = np.unique(np.concatenate([r.keys for r in results]), return_counts=True)
    repeated = digests[counts > 1]
    if not len(repeated):
        return []
    seen: dict[str, str] = {}
    problems = []
    for result in results:
        doubtful = np.flatnonzero(np.isin(result.keys, repeated))
        if not len(doubtful):
            continue
        with opened(result.shard) as folder:
            rows = read_index(folder, result.shard)[doubtful]
            keys = sample_keys(folder / result.shard.name, rows)
        again = [
            key for key in keys if seen.setdefault(key, result.shard.name) != result.shard.name
        ]
        again += [key for key, count in Counter(keys).items() if count > 1]
        if again:
            what = f"holds {len(again)} keys a second time, {again[0]!r} of {seen[again[0]]} first"
            problems.append(Problem(result.shard.name, what, "pack or rename its samples anew"))
    return problems


if __name__ == "__main__":
    sys.exit(main())
