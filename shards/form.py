"""The form that pictures are packed in, and which are left out for theirs."""

import argparse
from dataclasses import dataclass
from typing import Any

from dvae.errors import UserError

RESIZES = ("shorter", "longer", "crop", "none")
FORMATS = ("jpg", "png", "webp")
CHECKS = ("decode", "header")
_MAX_SIDE = 65535  # pixels, of a JPEG


@dataclass(frozen=True, kw_only=True)
class Form:
    """What becomes of a picture: box, margin, limits, size, encoding, in this order.

    Raises:
        UserError: a value outside its range.
    """

    size: int | None = None  # pixels
    resize: str = "shorter"  # which side `size` means; crop: both, of a centred square
    quality: int = 92  # of JPEG and WebP
    format: str | None = None  # None: an untouched picture keeps its own, others become jpg
    box_margin: float = 0.0  # of a box's width to the left and right, of its height above and below
    min_size: int | None = None  # pixels, the shorter side before resizing
    max_aspect: float | None = None  # the longer side over the shorter
    min_laplacian: float | None = None  # the variance of the Laplacian; less is blurred
    check: str = "decode"  # how untouched JPEGs are checked; header: by their header and end alone

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= _MAX_SIDE:
            raise UserError(f"--size {self.size}: give a side in pixels, 1 to {_MAX_SIDE}")
        if self.size is not None and self.resize == "none":
            raise UserError("--resize none changes no size: leave --size out")
        if self.size is None and self.resize in ("longer", "crop"):
            raise UserError(f"--resize {self.resize} needs --size: give the pixels")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality}: give a quality from 1 to 100")
        if not 0 <= self.box_margin <= 10:
            raise UserError(
                f"--box-margin {self.box_margin}: give a share from 0 to 10, such as 0.2"
            )
        if self.min_size is not None and self.min_size < 1:
            raise UserError(f"--min-size {self.min_size}: give 1 pixel or more")
        if self.max_aspect is not None and not self.max_aspect >= 1:
            raise UserError(f"--max-aspect {self.max_aspect}: give 1 or more")
        if self.min_laplacian is not None and not 0 <= self.min_laplacian < float("inf"):
            raise UserError(f"--min-laplacian {self.min_laplacian}: give 0 or more, 50 say")


def add_form(add: Any) -> None:
    """Add the flags of a `Form` to a parser, by its `add_argument`."""
    add("--size", type=int, metavar="N", help="shrink to N pixels; never enlarges")
    add("--resize", choices=RESIZES, default="shorter", help="the side that --size means")
    add("--quality", type=int, default=92, help="of what has to be encoded (default 92)")
    add(
        "--format", choices=FORMATS, help="encode all as this; else untouched ones stay as they are"
    )
    add("--box-margin", type=float, default=0.0, metavar="SHARE", help="widen boxes, 0.2 say")
    add("--min-size", type=int, metavar="N", help="leave out shorter sides below N pixels")
    add(
        "--max-aspect",
        type=float,
        metavar="R",
        help="leave out sides that differ more than R times",
    )
    add("--min-laplacian", type=float, metavar="V", help="leave out blurred pictures, below 50 say")
    add("--check", choices=CHECKS, default="decode", help="of untouched JPEGs (default decode)")


def taken_from(arguments: argparse.Namespace) -> Form:
    """The form that parsed arguments ask for; its flags are removed from them."""
    names = Form.__dataclass_fields__
    return Form(**{name: vars(arguments).pop(name) for name in names})
