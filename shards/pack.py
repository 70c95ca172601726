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
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from PIL import __version__ as pillow_version
from tqdm import tqdm

from dvae import __version__
from dvae.data.index import write_shard_manifest
from dvae.errors import UserError, exit_code_of
from dvae.files import locked, whole_file
from shards import output, summary
from shards.boxes import read_boxes
from shards.folder import Folder
from shards.options import Options, parse
from shards.parallel import in_order
from shards.pictures import PictureError, prepare, quiet
from shards.sources import Item, Listing, Plain, Source, list_items, shown, shuffled
from shards.splits import split_of, splits_of
from shards.writer import Sample, ShardWriter


class Packed(NamedTuple):
    """What became of one picture: a sample of a split, or the reason why it's left out."""

    item: Item
    split: str = ""
    sample: Sample | None = None
    reason: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack; returns the exit code."""
    return exit_code_of(lambda: pack(parse(sys.argv[1:] if arguments is None else arguments)))


def pack(options: Options) -> None:
    """Pack pictures as the options say, or find that it was done before; tells the user on stdout.

    Raises:
        UserError: a mistake in the options, an unusable source, no picture that can be packed.
    """
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"OUT {str(options.out)!r} is a file: give a folder")
    source = Plain(Folder(options.source))
    listing = list_items(source)
    if not listing.pictures:
        raise UserError(
            f"SOURCE {str(options.source)!r} holds no picture (jpg, png, webp, bmp, gif, tif)"
            f"{summary.ignored(listing)}: give the folder that holds the pictures themselves"
        )
    wanted = _options_of_the_bytes(options, listing)
    if options.boxes:
        boxes = read_boxes(options.boxes, options.source)
        wanted["boxes"] = boxes.sha256
        listing.pictures = boxes.given_to(listing.pictures)
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
            _write_shards(options, source, listing, wanted)
            output.finish(options.out)
    except OSError as error:
        raise UserError(
            f"{str(error.filename or options.out)!r} cannot be written ({error.strerror}): "
            f"mend that and run the command again"
        ) from None


def _write_shards(
    options: Options, source: Source, listing: Listing, wanted: dict[str, Any]
) -> None:
    start = time.monotonic()
    with ExitStack() as stack:
        stderr = stack.enter_context(quiet())
        writers = {
            name: stack.enter_context(ShardWriter(options.out, name, options.shard_bytes))
            for name in splits_of(listing.splits, options)
        }
        rejected = stack.enter_context(whole_file(options.out / output.REJECTED))
        pictures = shuffled(listing.pictures, options.seed)
        results = in_order(partial(_pack_one, options, source), pictures, options.workers)
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
    summary.tell(options.out, listing, made, reasons, time.monotonic() - start)


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
            line = {"source": shown(result.item.name), "reason": result.reason}
            rejected.write(json.dumps(line, sort_keys=True).encode() + b"\n")
    return labels, reasons


def _pack_one(options: Options, source: Source, item: Item) -> Packed:
    try:
        original = source.read(item)
        made = prepare(original, item.box, options.size, options.quality)
    except PictureError as error:
        return Packed(item, reason=str(error))
    content = hashlib.sha256(original)
    about = {
        "source": shown(item.name),
        "label": item.label,
        "width": made.width,
        "height": made.height,
        "bytes": len(made.data),
        "sha256": hashlib.sha256(made.data).hexdigest(),
    }
    if made.data is not original:
        about["source_sha256"] = content.hexdigest()
    split = split_of(item, content.digest(), options)
    return Packed(item, split, Sample(made.data, made.extension, about))


def _options_of_the_bytes(options: Options, listing: Listing) -> dict[str, Any]:
    """What determines the bytes of the shards; a finished folder with the same is left alone."""
    return {
        "size": options.size,
        "quality": options.quality,
        "boxes": None,
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
            f"({summary.most_common(reasons)}): give intact pictures"
        )
    for name, count in counts.items():
        if not count and options.val is not None:
            raise UserError(
                f"--val {options.val} leaves the split {name} empty with {sum(counts.values())} "
                f"pictures: give more pictures, or a share nearer to 0.5"
            )
        if not count:
            raise UserError(
                f"the split {name} is empty, all its pictures are rejected "
                f"({summary.most_common(reasons)}): mend them"
            )


if __name__ == "__main__":
    sys.exit(main())
