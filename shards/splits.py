"""Which split a picture belongs to: the source's own, or one by its content."""

import hashlib

from dvae.errors import UserError
from shards.options import Options, is_split_name
from shards.sources import Item

TRAIN = "train"
VAL = "val"


def splits_of(own: set[str | None], options: Options) -> list[str]:
    """The names of the splits that a run makes.

    Args:
        own: the splits that the source itself names; None for pictures without one.
        options: the run's.

    Raises:
        UserError: a name that can't be a file's; `--val` where the source has a split val, or nothing to take it from.
    """
    names = {name or options.split for name in own}
    wrong = [name for name in sorted(names) if not is_split_name(name)]
    if wrong:
        raise UserError(
            f"SOURCE names the split {wrong[0][:40]!r}, which no file can be called: mend that, or "
            f"give --ignore-splits"
        )
    if options.val is None:
        return sorted(names)
    if VAL in names:
        raise UserError(
            "SOURCE names a split val of its own: leave --val out, or give --ignore-splits"
        )
    if TRAIN not in names:
        raise UserError(f"--val takes from the split train, and SOURCE has {sorted(names)} only")
    return sorted(names | {VAL})


def split_of(item: Item, content: bytes, options: Options) -> str:
    """A picture's split; `content` is the SHA-256 of the source's bytes."""
    own = item.split or options.split
    if own == TRAIN and options.val is not None:
        return VAL if is_held_out(content, options.val, options.seed) else TRAIN
    return own


def is_held_out(content: bytes, fraction: float, seed: int) -> bool:
    """Whether a picture belongs to `val`: decided by its source's SHA-256, so copies stay together."""
    digest = hashlib.sha256(b"%d\n" % seed + content).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
