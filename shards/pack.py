"""Pack a folder of pictures into WebDataset shards.

    python -m shards.pack SOURCE OUT [--size 256] [--val 0.05] [--boxes boxes.csv]

    SOURCE/chow/rex.jpg …  ->  OUT/train-000000.tar, train-000000.index.npy, …, rejected.jsonl,
                               and, last of all, OUT/manifest.json

The sub-folder is the label. Samples stand in the order of SHA-256(seed, name), so shards are mixed
over labels, and the same source and options give the same bytes, whatever the machine's listing
order, locale and time and whatever `--workers`. Which pictures stay untouched, and what becomes of
the others, stands in `shards/pictures.py`. A picture that can't be packed is named in rejected.jsonl.
"""

import hashlib
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import __version__ as pillow_version
from tqdm import tqdm

from dvae import __version__
from dvae.data.index import Shard, write_shard_manifest
from dvae.errors import UserError, exit_code_of
from dvae.files import locked, whole_file
from shards import output
from shards.options import Options, parse
from shards.parallel import in_order
from shards.pictures import PictureError, prepare, quiet
from shards.sources import (
    Boxes,
    Found,
    Listing,
    is_held_out,
    label_of,
    list_pictures,
    read_boxes,
    read_picture,
    shown,
    shuffled,
)
from shards.writer import Sample, ShardWriter


class Packed(NamedTuple):
    """What became of one file: a sample of a split, or the reason why it's left out."""

    found: Found
    split: str = ""
    sample: Sample | None = None
    reason: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack; returns the exit code."""
    return exit_code_of(lambda: pack(parse(sys.argv[1:] if arguments is None else arguments)))


def pack(options: Options) -> None:
    """Pack pictures as the options say, or find that it was done before; tells the user on stdout.

    Raises:
        UserError: a mistake in the options, an unusable folder, no picture that can be packed.
    """
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"OUT {str(options.out)!r} is a file: give a folder")
    listing = list_pictures(options.source)
    if not listing.pictures:
        raise UserError(_nothing_found(options.source, listing))
    boxes = read_boxes(options.boxes, options.source) if options.boxes else None
    if boxes and not any(boxes.find(found.name) for found in listing.pictures):
        raise UserError(
            f"--boxes {str(options.boxes)!r} names no picture of SOURCE: its column file is relative "
            "to SOURCE or to the CSV's own folder"
        )
    wanted = _options_of_the_bytes(options, listing, boxes)
    try:
        with locked(options.out):
            finished = output.find_finished(options.out)
            if finished and not options.overwrite:
                output.check_same(options.out, finished, wanted)
                sys.stdout.write(
                    f"{shown(os.fsencode(options.out))} is already packed with these options\n"
                )
                return
            output.start(options.out)
            _write_shards(options, listing, boxes, wanted)
            output.finish(options.out)
    except OSError as error:
        raise UserError(
            f"{str(error.filename or options.out)!r} cannot be written ({error.strerror}): "
            f"mend that and run the command again"
        ) from None


def _write_shards(
    options: Options, listing: Listing, boxes: Boxes | None, wanted: dict[str, Any]
) -> None:
    start = time.monotonic()
    with ExitStack() as stack:
        stderr = stack.enter_context(quiet())
        writers = {
            name: stack.enter_context(ShardWriter(options.out, name, options.shard_bytes))
            for name in options.splits
        }
        rejected = stack.enter_context(whole_file(options.out / output.REJECTED))
        pictures = shuffled(listing.pictures, options.seed)
        results = in_order(partial(_pack_one, options, boxes), pictures, options.workers)
        stack.enter_context(closing(results))
        progress = tqdm(results, "packing", len(pictures), file=stderr, unit="img", disable=None)
        labels, reasons = _write_samples(progress, writers, rejected)
        _check_counts({name: writer.samples for name, writer in writers.items()}, reasons, options)
    packed = sum(writer.samples for writer in writers.values())
    assert packed + reasons.total() == len(pictures)
    about = {
        "made_by": f"shards.pack of dvae {__version__} with Pillow {pillow_version}",
        "options": wanted,
        "counts": {"found": len(pictures), "packed": packed, "rejected": reasons.total()},
        "classes": sorted(labels),
    }
    made = {name: writer.shards for name, writer in writers.items()}
    write_shard_manifest(options.out, made, about)
    _tell(options.out, listing, made, reasons, time.monotonic() - start)


def _write_samples(
    results: Iterable[Packed], writers: dict[str, ShardWriter], rejected: BinaryIO
) -> tuple[set[str], Counter[str]]:
    """Write each result where it belongs; the labels seen, and how often each kind of reason."""
    labels: set[str] = set()
    reasons: Counter[str] = Counter()
    for result in results:
        if result.sample:
            writers[result.split].write(result.sample)
            label = result.sample.about["label"]
            labels |= set() if label is None else {label}
        else:
            reasons[result.reason.split(":")[0]] += 1
            line = {"source": shown(result.found.name), "reason": result.reason}
            rejected.write(json.dumps(line, sort_keys=True).encode() + b"\n")
    return labels, reasons


def _pack_one(options: Options, boxes: Boxes | None, found: Found) -> Packed:
    try:
        source = read_picture(os.path.join(os.fsencode(options.source), found.name))
        box = boxes.find(found.name) if boxes else None
        made = prepare(source, box, options.size, options.quality)
    except PictureError as error:
        return Packed(found, reason=str(error))
    content = hashlib.sha256(source)
    held_out = options.val is not None and is_held_out(content.digest(), options.val, options.seed)
    about = {
        "source": shown(found.name),
        "label": label_of(found.name),
        "width": made.width,
        "height": made.height,
        "bytes": len(made.data),
        "sha256": hashlib.sha256(made.data).hexdigest(),
    }
    if made.data is not source:
        about["source_sha256"] = content.hexdigest()
    split = "val" if held_out else options.splits[0]
    return Packed(found, split, Sample(made.data, made.extension, about))


def _options_of_the_bytes(
    options: Options, listing: Listing, boxes: Boxes | None
) -> dict[str, Any]:
    """What determines the bytes of the shards; a finished folder with the same is left alone."""
    return {
        "size": options.size,
        "quality": options.quality,
        "boxes": boxes.sha256 if boxes else None,
        "shard_bytes": options.shard_bytes,
        "val": options.val,
        "split": options.split,
        "seed": options.seed,
        "pictures": listing.digest,
    }


def _check_counts(counts: dict[str, int], reasons: Counter[str], options: Options) -> None:
    if not any(counts.values()):
        raise UserError(
            f"none of the {reasons.total()} pictures in {str(options.source)!r} can be packed "
            f"({_most_common(reasons)}): give intact pictures"
        )
    for name, count in counts.items():
        if not count:
            raise UserError(
                f"--val {options.val} leaves the split {name} empty with {sum(counts.values())} "
                f"pictures: give more pictures, or a share nearer to 0.5"
            )


def _tell(
    out: Path,
    listing: Listing,
    made: dict[str, list[Shard]],
    reasons: Counter[str],
    seconds: float,
) -> None:
    shards = [shard for group in made.values() for shard in group]
    place = shlex.quote(shown(os.fsencode(out)))
    lost = f" ({_most_common(reasons)}): see {place}/{output.REJECTED}" if reasons else ""
    lines = [
        f"found     {len(listing.pictures)} pictures{_ignored(listing)}",
        *(f"packed    {sum(s.samples for s in made[name])} into the split {name}" for name in made),
        f"rejected  {reasons.total()}{lost}",
        f"wrote     {len(shards)} shards, {sum(s.bytes for s in shards)} bytes, in {seconds:.1f} s",
        f"next      dvae train RECIPE.toml data.train={place}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _nothing_found(source: Path, listing: Listing) -> str:
    return (
        f"SOURCE {str(source)!r} holds no picture (jpg, png, webp, bmp, gif, tif)"
        f"{_ignored(listing)}: give the folder that holds the pictures themselves"
    )


def _ignored(listing: Listing) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(listing.ignored.items()))
    return f" (ignored: {kinds})" if kinds else ""


def _most_common(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))


if __name__ == "__main__":
    sys.exit(main())
