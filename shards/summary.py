"""What the packer tells the user on stdout, and the counts in its messages."""

import os
import shlex
import sys
from collections import Counter

from dvae.data.manifest import Shard
from shards import output
from shards.sources import Listing, shown


def tell(
    out: str,
    listing: Listing,
    made: dict[str, list[Shard]],
    reasons: Counter[str],
    old: int,
    seconds: float,
) -> None:
    """What was found, packed, rejected and written, and what to do next.

    Args:
        out: the folder, or its URL.
        listing: the source's.
        made: the shards that the folder holds now, by split.
        reasons: of what is left out.
        old: how many of the shards an earlier run wrote.
        seconds: that this one took.
    """
    shards = [shard for group in made.values() for shard in group]
    place = shlex.quote(shown(os.fsencode(out)))
    lost = f" ({most_common(reasons)}): see {place}/{output.REJECTED}" if reasons else ""
    lines = [
        f"found     {len(listing.pictures)} pictures{ignored(listing)}",
        *(f"packed    {sum(s.samples for s in made[name])} into the split {name}" for name in made),
        f"rejected  {reasons.total()}{lost}",
        *([f"kept      {old} shards of an earlier run"] if old else []),
        f"wrote     {len(shards) - old} shards, {sum(s.bytes for s in shards)} bytes, in {seconds:.1f} s",
        f"next      dvae train RECIPE.toml data.train={place}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def ignored(listing: Listing) -> str:
    """` (ignored: 3 other files)`, or nothing."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(listing.ignored.items()))
    return f" (ignored: {kinds})" if kinds else ""


def most_common(reasons: Counter[str]) -> str:
    """The three most common reasons with their counts."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
