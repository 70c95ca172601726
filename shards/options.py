"""The options of `python -m shards.pack`: flags in, checked values out."""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dvae.data.location import scheme_of
from dvae.errors import UserError
from shards.form import Form, add_form, taken_from
from shards.layouts import ALIASES, NAMES

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DEDUPE = (
    "leave out pictures of equal bytes (exact), also those that look alike (near, needs the extra "
    "dedupe); none (the default) packs all, equal bytes into one split"
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run was asked for.

    Raises:
        UserError: a value outside its range.
    """

    source: Path | str  # str: a URL
    out: Path | str
    staging: Path | None = None
    form: Form = Form()
    layout: str | None = None
    boxes: Path | None = None  # "source": the boxes that SOURCE itself names
    shard_bytes: int = 256 << 20
    val: float | None = None
    split: str = "train"
    ignore_splits: bool = False
    seed: int = 0
    workers: int = 1
    engine: str = "threads"  # or ray
    overwrite: bool = False
    dedupe: str = "none"  # or exact, or near
    append: bool = False
    strict: bool = False  # does not change what is written

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise UserError(f"--shard-bytes {self.shard_bytes}: give a size such as 256MB")
        if self.val is not None and not 0 < self.val < 1:
            raise UserError(f"--val {self.val}: give a share between 0 and 1, such as 0.05")
        if not is_split_name(self.split):
            raise UserError(
                f"--split {self.split!r}: give up to 31 letters, digits, - or _, a letter first and last"
            )
        if self.val is not None and self.split != "train":
            raise UserError("--val makes the splits train and val: leave --split out")
        if self.append and self.overwrite:
            raise UserError("--append keeps the shards that --overwrite replaces: give one of them")
        if self.workers < 1:
            raise UserError(f"--workers {self.workers}: give 1 or more")


def is_split_name(text: str) -> bool:
    """Whether files may be called that, with a number behind it."""
    return bool(re.fullmatch(r"[A-Za-z]([A-Za-z0-9_-]{0,29}[A-Za-z_])?", text))


def location(text: str) -> Path | str:
    """A path, or a URL as a text.

    Raises:
        ArgumentTypeError: a URL of a kind that isn't read from.
    """
    try:
        return text if "://" in text and scheme_of(text) else Path(text)
    except UserError as error:  # argparse would drop the words of a ValueError
        raise argparse.ArgumentTypeError(str(error)) from None


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UserError(f"{message}: see {self.prog} --help")


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line.

    Raises:
        UserError: an unknown flag, or a value that makes no sense.
    """
    parser = Parser(
        prog="python -m shards.pack",
        description="Pack pictures into WebDataset shards.",
    )
    add = parser.add_argument
    add("source", type=location, metavar="SOURCE", help="folder, list, archive, shards, data set")
    add("out", type=location, metavar="OUT", help="folder that receives the shards, or s3://…")
    add("--staging", type=Path, metavar="DIR", help="where what is remote lies meanwhile")
    add_form(add)
    add(
        "--layout",
        type=_layout,
        choices=NAMES,
        help="what SOURCE is, where it's not recognised rightly",
    )
    add("--boxes", type=Path, metavar="CSV", help="crop boxes, file,x0,y0,x1,y1; or: source")
    add("--shard-bytes", type=_bytes, default=256 << 20, metavar="BYTES", help="default 256MB")
    add("--val", type=float, metavar="SHARE", help="hold out this share, 0.05 say, as split val")
    add("--split", default="train", metavar="NAME", help="of pictures that SOURCE gives none")
    add("--ignore-splits", action="store_true", help="forget the splits that SOURCE names")
    add("--seed", type=int, default=0, help="of the order of samples and of --val's choice")
    add("--workers", type=int, default=_cores(), help="threads (default: all cores)")
    add("--engine", choices=("threads", "ray"), default="threads", help="ray: on a Ray cluster")
    add("--dedupe", choices=("none", "exact", "near"), default="none", help=_DEDUPE)
    add("--append", action="store_true", help="add pictures that a finished OUT doesn't have yet")
    add("--strict", action="store_true", help="exit 3, when all is written, if any was rejected")
    begun = parser.add_mutually_exclusive_group().add_argument
    begun("--resume", action="store_true", help="go on with what a stopped run left (the default)")
    begun("--overwrite", action="store_true", help="replace shards that an earlier run put in OUT")
    parsed = parser.parse_args(arguments)
    del parsed.resume
    form = taken_from(parsed)
    return Options(form=form, **vars(parsed))


def _layout(name: str) -> str:
    return ALIASES.get(name, name)


def _cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0))


def _bytes(text: str) -> int:
    """`256MB`, `1G`, `4096` -> bytes; K, M and G are powers of 1024."""
    match = re.fullmatch(r"(\d{1,15})\s*([KMG]?)(iB|B)?", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 256MB")
    return int(match[1]) * _UNITS[match[2].upper()]
