"""`dvae doctor [RUN]`: what is wrong with the machine, the shards and a run, and what to do.

One line for each thing that was looked at: ok, warning or wrong. Nothing is written or mended.
"""

import hashlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dvae.checks import check_disk
from dvae.config import Config, RunConfig
from dvae.data.index import read_index
from dvae.data.manifest import Shard, Split, read_splits
from dvae.data.storage import Store, StoreError, open_store, pieces_of
from dvae.errors import UserError
from dvae.files import damage, holder_of
from dvae.find import state_of
from dvae.guard import REPORT as GUARD
from dvae.inventory import Found, config_of, found_in
from dvae.machine import machine
from dvae.masking import MASK
from dvae.notes import Note, amount, attempt, checked, noted
from dvae.recipe import load_config
from dvae.resume import settle_data
from dvae.session import BAD_SAMPLES
from dvae.sources import find_held_out, find_sources

FAILED = 1  # exit code: something is wrong
SHOWN = 5  # of many like findings


def report(what: Path | None, shards: list[str] | None = None, verify: bool = False) -> int:
    """Print a line for each thing that was looked at; 1 where one is wrong, else 0.

    Args:
        what: a run, or a recipe; None: the machine alone.
        shards: folders of shards, local or remote, in place of the recipe's.
        verify: read the shards from end to end, not sizes and indexes alone.

    Raises:
        UserError: `what` is neither.
    """
    verdicts = []
    for note in _all(what, shards, verify):
        sys.stdout.write(f"{note}\n")
        verdicts.append(note.verdict)
    wrong, warnings = verdicts.count("wrong"), verdicts.count("warning")
    sys.stdout.write(f"{len(verdicts)} looked at: {wrong} wrong, {warnings} to be warned of\n")
    return FAILED if wrong else 0


def _all(what: Path | None, shards: list[str] | None, verify: bool) -> Iterator[Note]:
    is_run = what is not None and not what.is_file()
    if what and is_run and not (what / "config.toml").exists():
        raise UserError(f"{what} is neither a run (it has no config.toml) nor a recipe")
    yield from machine(what if what and is_run else Path("runs"))
    config: list[Config] = []
    if what:
        yield from attempt("recipe", partial(_of_recipe, what, is_run, config))
    if what and is_run:
        yield from attempt("run", partial(_of_run, what))
        for each in config if not shards else []:
            yield from attempt("data", partial(_of_data, what, each))
    for location in shards or [path for each in config for path in _locations(each)]:
        yield from attempt("shards", partial(_of_shards, location, verify))


def _of_recipe(what: Path, is_run: bool, config: list[Config]) -> Iterator[Note]:
    """Notes of a recipe, which joins `config` if it can be read."""
    config.append(config_of(what) if is_run else load_config(what))
    if is_run:  # wherever it was moved to
        place = RunConfig(dir=str(what.absolute().parent), name=what.absolute().name)
        config[0] = config[0].model_copy(update={"run": place})
    steps = f"{config[0].model.name}, {config[0].train.steps} steps"
    yield Note("ok", "recipe", f"{what / 'config.toml' if is_run else what}: {steps}")
    yield checked("disk", "room for its checkpoints", lambda: check_disk(config[0]))


def _locations(config: Config) -> list[str]:
    return list(dict.fromkeys([*config.data.paths, *filter(None, [config.data.val])]))


def _of_run(run: Path) -> Iterator[Note]:
    """Its checkpoints, its weights, what it noted of bad samples and odd losses, who holds it."""
    if holder := holder_of(run):
        yield Note("ok", "lock", f"{holder} is at work on it")
    yield from _of_checkpoints(run, found_in(run))
    weights = run / "weights"
    if weights.is_dir():
        wrong = damage(weights)
        remedy = f"move it away, and dvae checkpoints {run} --export last --out {weights}"
        yield noted("weights", not wrong, f"{weights}: {wrong or 'whole'}", remedy, "wrong")
    yield from _lines(run / BAD_SAMPLES, "samples could not be read")
    yield from _lines(run / GUARD, "batches with an odd loss or gradient")


def _of_checkpoints(run: Path, found: list[Found]) -> Iterator[Note]:
    whole = [entry for entry in found if not entry.wrong]
    remedy = "none is left that is whole; choose another run.name"
    if whole:
        remedy = "delete it; the last whole one is " + whole[-1].path.name
    for entry in found:
        if entry.wrong:
            yield Note("wrong", "checkpoint", f"{entry.path} is damaged: {entry.wrong}: {remedy}")
    if whole:
        last = whole[-1]
        text = f"{len(whole)} whole, the last {last.path.name}, {amount(last.bytes)}"
        yield Note("ok", "checkpoints", text)
    elif not found:
        yield Note("ok", "checkpoints", "none yet")


def _of_data(run: Path, config: Config) -> Iterator[Note]:
    """Whether the shards are still those that the run began with."""
    state = state_of(str(run))
    if state and not any(MASK in path for path in _locations(config)):
        sources, held_out = find_sources(config, 1), find_held_out(config)
        settle_data(state, sources, held_out, run / "checkpoints", accept_new=False)
        yield Note("ok", "data", "the shards are those that the run began with")


def _lines(path: Path, what: str) -> Iterator[Note]:
    if path.is_file():
        with path.open("rb") as file:
            yield Note("warning", path.stem, f"{sum(1 for _ in file)} {what}: see {path}")


def _of_shards(location: str, verify: bool) -> Iterator[Note]:
    """Manifest, size of every tar, digest of every index; `verify` reads everything."""
    if MASK in location:
        raise UserError(f"{location}: secrets of URLs aren't kept: give it whole, by --shards")
    store = open_store(location)
    splits = read_splits(store)
    for split in splits.values():
        count = f"{int(split.counts.sum())} samples in {len(split.shards)} shards"
        yield Note("ok", "shards", f"{store.shown}: {split.name}: {count}")
    wrong = [text for split in splits.values() for text in _shortcomings(split, verify)]
    for text in wrong[:SHOWN]:
        yield Note("wrong", "shards", text)
    if len(wrong) > SHOWN:
        remedy = f"python -m shards.verify {store.shown}"
        yield Note("wrong", "shards", f"and {len(wrong) - SHOWN} more: {remedy}")


def _shortcomings(split: Split, verify: bool) -> Iterator[str]:
    for shard in split.shards:
        try:
            found = split.tars.size(shard.name)
            if found != shard.bytes:
                yield f"{shard.name} has {found} of {shard.bytes} bytes: copy it or pack it again"
            elif verify and _sha256(split.tars, shard) != shard.sha256:
                remedy = "copy it or pack it again; python -m shards.verify names its samples"
                yield f"{shard.name} does not have the SHA-256 that the manifest names: {remedy}"
            read_index(split.store, shard)
        except (StoreError, UserError) as error:
            yield f"{error}: copy it or pack it again"


def _sha256(store: Store, shard: Shard) -> str:
    """Of a tar, local or remote."""
    digest = hashlib.sha256()
    for piece in pieces_of(store, shard.name, shard.bytes):
        digest.update(piece)
    return digest.hexdigest()
