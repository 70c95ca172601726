"""Pack pictures into WebDataset shards.

    python -m shards.pack SOURCE OUT [--size 256] [--val 0.05] [--boxes boxes.csv]

    SOURCE/chow/rex.jpg …  ->  OUT/train-000000.tar, train-000000.index.npy, …, rejected.jsonl,
                               and, last of all, OUT/manifest.json

SOURCE may also be a list, an archive, shards, parquet or a known data set: `shards/recognise.py`. In
a folder, the sub-folder is the label. Samples stand in the order of SHA-256(seed, name), so shards are
mixed over labels, and the same source and options give the same bytes, whatever the machine's listing
order, locale and time and whatever `--workers`. Which pictures stay untouched, and what becomes of
the others, stands in `shards/pictures.py`. A picture that can't be packed is named in rejected.jsonl.

A run that was killed goes on with the same command: the shards that it finished are kept. `--append`
adds the pictures that a finished OUT doesn't have yet as further shards. `--dedupe exact` leaves out
pictures of equal bytes, `--dedupe near` also those that look alike; each is named in rejected.jsonl.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from dvae.errors import FULL, DataError, ResourceError, UserError, exit_code_of
from dvae.files import locked
from shards import output, summary
from shards.boxes import choose_boxes
from shards.columns import Columns
from shards.finished import Finished, read_finished
from shards.form import Form
from shards.job import Job
from shards.journal import Done, count_entries, digest_of, journal_name, read_done
from shards.layouts import FOLDER
from shards.making import make_shards
from shards.options import Options, parse
from shards.place import Place, place_of
from shards.recognise import open_source
from shards.sources import Listing, Source, list_items, shown
from shards.splits import splits_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack; returns the exit code."""
    return exit_code_of(lambda: pack(parse(sys.argv[1:] if arguments is None else arguments)))


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave as on Ctrl-C, so that unfinished files go."""
    sys.exit(128 + number)


def pack(options: Options) -> None:
    """Pack pictures as the options say, or find that it was done before; tells the user on stdout.

    What an earlier run with these options finished is kept, also if it was killed.

    Raises:
        UserError: a mistake in the options, an unusable source, no picture that can be packed.
    """
    place = place_of(options.out, options.staging)
    _check_writable(place.folder)  # before the listing, which may take minutes
    kind, source = open_source(options.source, options.layout, options.staging)
    listing = list_items(source)
    if not listing.pictures:
        raise UserError(
            f"SOURCE {str(options.source)!r} holds no picture (jpg, png, webp, bmp, gif, tif)"
            f"{summary.ignored(listing)}: give the folder that holds the pictures themselves"
        )
    wanted = _options_of_the_bytes(options, listing)
    if isinstance(source, Columns):
        wanted["files"] = source.digest
    wanted["boxes"] = choose_boxes(options, listing)
    if options.ignore_splits:
        listing.pictures = [item._replace(split=None) for item in listing.pictures]
    splits_of(listing.splits, options)  # a mistake in them has to show before OUT is marked
    if kind != FOLDER:
        sys.stdout.write(f"source    {kind} (--layout names another)\n")
    try:
        with locked(place.folder):
            _pack_into(options, place, source, listing, wanted)
    except (KeyboardInterrupt, SystemExit):
        sys.stderr.write("stopped: the same command goes on after the last whole shard\n")
        raise
    except OSError as error:
        raise _not_written(error, options, place) from None
    if options.strict:
        _check_none_rejected(place)


def _not_written(error: OSError, options: Options, place: Place) -> UserError:
    what = f"{str(error.filename or place.folder)!r} cannot be written ({error.strerror}): "
    again = "run the command again, it goes on after the last whole shard"
    if error.errno not in FULL:
        return UserError(f"{what}mend that and {again}")
    free = shutil.disk_usage(place.folder).free
    kept = count_entries(place.folder)
    return ResourceError(
        f"{what}a shard needs up to {options.shard_bytes / 1e6:,.2f} MB, {free / 1e6:,.2f} MB are free, "
        f"{kept} shards are kept: make room and {again}"
    )


def _check_none_rejected(place: Place) -> None:
    about = output.find_finished(place) or {}
    counts = about.get("counts", {})
    if counts.get("rejected"):
        raise DataError(
            f"--strict: {counts['rejected']} of {counts['found']} pictures were rejected, the others are "
            f"packed: see {place.shown}/{output.REJECTED}"
        )


def _check_writable(folder: Path) -> None:
    """Raises `UserError` if a folder can't be written to, or made; makes none."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        with locked(folder):  # which says why
            pass


def _pack_into(
    options: Options, place: Place, source: Source, listing: Listing, wanted: dict[str, Any]
) -> None:
    """Pack into a folder that this process holds."""
    about = output.find_finished(place)
    finished = Finished({})
    if about and not options.overwrite:
        if output.is_same(place, about, wanted, options.append):
            output.finish(place)
            there = shown(os.fsencode(place.shown))
            sys.stdout.write(f"{there} is already packed with these options\n")
            return
        finished = read_finished(place.store, about)
    elif not options.overwrite:
        output.check_unfinished(place, wanted)
    digest = digest_of(wanted, finished.sha256)
    done = Done() if options.overwrite else read_done(place, digest)
    keep = output.names_of([*finished.shards, *(entry.shard for entry in done.entries)])
    keep |= {journal_name(number) for number in range(len(done.entries))}
    is_appending = bool(finished.splits)
    if is_appending:
        keep.add(output.REJECTED)
    output.start(place, wanted, keep, is_appending)
    start = time.monotonic()
    made = make_shards(Job(options, place, source, wanted, finished, digest, done), listing)
    output.finish(place)
    old = len(finished.shards) + len(done.entries)
    summary.tell(place.shown, listing, made.shards, made.reasons, old, time.monotonic() - start)


def _options_of_the_bytes(options: Options, listing: Listing) -> dict[str, Any]:
    """What determines the bytes of the shards; a finished folder with the same is left alone."""
    form = options.form
    always = {
        "size": form.size,
        "quality": form.quality,
        "boxes": None,
        "shard_bytes": options.shard_bytes,
        "val": options.val,
        "split": options.split,
        "seed": options.seed,
        "pictures": listing.digest,
    }
    # These stand in the manifest where they're asked for, so that older manifests still agree.
    later = asdict(form) | {name: getattr(options, name) for name in ("ignore_splits", "dedupe")}
    usual = asdict(Form()) | {"ignore_splits": False, "dedupe": "none"}
    return always | {name: value for name, value in later.items() if value != usual[name]}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
