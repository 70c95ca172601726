"""Check a folder of shards against its manifest, in parallel.

    python -m shards.verify DIR [--repair-index]

Sizes and SHA-256 of each tar and index, the CRC-32 of each picture, that its JSON is JSON and agrees
with the picture's SHA-256 where it names one, that no key stands twice in a split, and that the
counts add up. Exit code 0: all right; 3: it falls short, and stdout has a line for each thing that
does, `FILE: WHAT: REMEDY`. `--repair-index` makes damaged indexes anew from tars that are right.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dvae.data.index import read_index
from dvae.data.manifest import Split, read_splits
from dvae.errors import DataError, UserError, exit_code_of
from dvae.files import MANIFEST
from shards.damage import COPY, Checked, Problem, check_shard, sample_keys
from shards.options import Parser
from shards.output import REJECTED, is_unfinished
from shards.parallel import in_order
from shards.pictures import quiet
from shards.sources import shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify; returns the exit code."""
    parser = Parser(prog="python -m shards.verify", description="Check shards by their manifest.")
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="folder that holds the shards")
    add("--repair-index", action="store_true", help="make damaged indexes anew from intact tars")
    return exit_code_of(lambda: _command(**vars(parser.parse_args(arguments))))


def _command(folder: Path, repair_index: bool) -> None:
    splits = manifest_of(folder)
    with quiet() as stderr:
        total = sum(shard.bytes for split in splits.values() for shard in split.shards)
        with tqdm(
            desc="verifying", total=total, unit="B", unit_scale=True, file=stderr, disable=None
        ) as bar:
            problems = verify(folder, splits, repair_index, bar)
    for problem in problems:
        sys.stdout.write(shown(os.fsencode(": ".join(problem))) + "\n")
    if problems:
        raise DataError(
            f"{folder} falls short of its {MANIFEST}: {len(problems)} things, see the list"
        )
    count = sum(len(split.shards) for split in splits.values())
    samples = sum(int(split.counts.sum()) for split in splits.values())
    sys.stdout.write(f"all right: {samples} samples in {count} shards, {total} bytes\n")


def manifest_of(folder: Path) -> dict[str, Split]:
    """The splits of a folder of shards.

    Raises:
        UserError: no such folder.
        DataError: it's half packed, or its manifest is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is not a folder: give the folder that holds the shards")
    if is_unfinished(folder):
        raise DataError(f"{str(folder)!r} is half packed: run its python -m shards.pack again")
    try:
        return read_splits(folder)
    except UserError as error:
        raise DataError(str(error)) from None


def verify(folder: Path, splits: dict[str, Split], repair: bool, bar: tqdm) -> list[Problem]:
    """Everything in which a folder falls short of its manifest.

    Args:
        folder: holds the shards.
        splits: what its manifest names.
        repair: write indexes anew where the tar is right and the index isn't.
        bar: shows the bytes checked.
    """
    problems = _check_names(folder, splits) + _check_counts(folder, splits)
    for split in splits.values():
        results = []
        check = partial(check_shard, folder, repair)
        for result in in_order(check, split.shards, min(os.cpu_count() or 1, 8)):
            bar.update(result.shard.bytes)
            problems += result.problems
            results.append(result)
        problems += _check_keys(folder, results)
    return problems


def _check_names(folder: Path, splits: dict[str, Split]) -> list[Problem]:
    """Tars that the manifest names twice, or doesn't name."""
    named = Counter(shard.name for split in splits.values() for shard in split.shards)
    twice = [name for name, count in named.items() if count > 1]
    strays = sorted(path.name for path in folder.glob("[!.]*.tar") if path.name not in named)
    remedy = "delete it, or run python -m shards.index if it belongs here"
    return [
        *(Problem(name, f"is named twice by {MANIFEST}", COPY) for name in twice),
        *(Problem(name, f"is not named by {MANIFEST}", remedy) for name in strays),
    ]


def _check_counts(folder: Path, splits: dict[str, Split]) -> list[Problem]:
    """The packer's counts against the shards' and against the list of what was left out."""
    about = json.loads((folder / MANIFEST).read_bytes()).get("about")
    counts = about.get("counts") if isinstance(about, dict) else None
    if not isinstance(counts, dict):
        return []
    problems = []
    packed = sum(int(split.counts.sum()) for split in splits.values())
    if counts.get("packed") != packed:
        what = f"counts {counts.get('packed')} packed pictures, and its shards hold {packed}"
        problems.append(Problem(MANIFEST, what, COPY))
    left_out = sum(int(counts.get(kind, 0)) for kind in ("rejected", "duplicates"))
    try:
        with (folder / REJECTED).open("rb") as file:
            lines = sum(1 for _ in file)
    except OSError as error:
        return [*problems, Problem(REJECTED, f"cannot be read ({error.strerror})", COPY)]
    if lines != left_out:
        what = f"has {lines} lines, and {MANIFEST} counts {left_out} pictures left out"
        problems.append(Problem(REJECTED, what, COPY))
    return problems


def _check_keys(folder: Path, results: list[Checked]) -> list[Problem]:
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
        keys = sample_keys(folder / result.shard.name, read_index(folder, result.shard)[doubtful])
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
