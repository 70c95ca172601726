"""Which pictures are left out as duplicates, and of which one each is a duplicate.

`exact`: equal bytes, and equal boxes. `near`: those, and pictures that look alike (`shards.likeness`).
Pictures that are alike directly or through others make a group; the one of a group that is packed is
the one in the finished set that is appended to, else the one of the most pixels, else the first. So no
two pictures of a group can come to stand on two sides of a split.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dvae.data.formats import FORMATS, UNREADABLE, to_rgb
from shards.finished import Finished, content_of, samples_in, with_box
from shards.form import Form
from shards.geometry import Box
from shards.likeness import SIDE, Looks, alike_pairs, load_imagehash, looks_of
from shards.parallel import in_order
from shards.pictures import PictureError, prepare
from shards.sources import Item, Source, shown

NEAR = "near"
DUPLICATE = "duplicate"  # how the reasons of duplicates start
NEAR_DUPLICATE = "near duplicate"
DUPLICATES = (DUPLICATE, NEAR_DUPLICATE)


class Print(NamedTuple):
    """A picture's fingerprint."""

    content: bytes  # SHA-256 of its bytes, and of its box if it has one
    pixels: int = 0
    looks: Looks | None = None  # None for `exact`, and for flat and unreadable pictures


def find_duplicates(
    form: Form | None,
    source: Source,
    pictures: Sequence[Item],
    finished: Finished,
    workers: int,
    bar: tqdm,
) -> dict[int, str]:
    """The reason why each duplicate is left out, by its position in `pictures`.

    Args:
        form: that they are packed in; None: look at their bytes alone, not at the pictures.
        source: what the pictures are read from.
        pictures: in the order that they are packed in.
        finished: the set that they are appended to.
        workers: threads.
        bar: a progress bar.

    Raises:
        UserError: the library that looks at pictures isn't installed.
    """
    if form:
        load_imagehash()
    names, prints = [], []
    for about, picture in samples_in(finished, workers):
        names.append(about["source"])
        content = content_of(about)
        prints.append(_look(content, picture()) if form else Print(content))
    old = len(names)
    bar.reset(len(pictures))
    for made in in_order(partial(_print_of, source, form), pictures, workers):
        prints.append(made)
        bar.update()
    kept = _kept(prints, old)
    reasons = {}
    for place in range(old, len(prints)):
        if kept[place] != place:
            first = int(kept[place])
            name = names[first] if first < old else shown(pictures[first - old].name)
            is_exact = prints[place].content == prints[first].content
            reasons[place - old] = (
                f"{DUPLICATE}: has the bytes of {name}"
                if is_exact
                else f"{NEAR_DUPLICATE}: looks like {name}"
            )
    return reasons


def _print_of(source: Source, form: Form | None, item: Item) -> Print:
    try:
        data = source.read(item)
    except PictureError:
        return Print(hashlib.sha256(b"unreadable " + item.name).digest())
    content = with_box(hashlib.sha256(data).digest(), item.box)
    if not form:
        return Print(content)
    try:
        # As the packer decodes it, so that what it will reject stands for no group. Believing headers
        # would leave the damage amid the data to be met here.
        form = replace(form, size=SIDE, resize="shorter", quality=95, format=None, check="decode")
        small = prepare(data, item.box, form)
    except PictureError:
        return Print(content)
    return _look(content, small.data)._replace(pixels=_pixels(data, item.box))


def _pixels(data: bytes, box: Box | None) -> int:
    if box:
        return (box[2] - box[0]) * (box[3] - box[1])
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.width * image.height


def _look(content: bytes, data: bytes) -> Print:
    """The fingerprint of a picture that was packed or prepared; one that was believed may be damaged."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return Print(content, image.width * image.height, looks_of(to_rgb(image)))
    except UNREADABLE:
        return Print(content)


def _kept(prints: Sequence[Print], old: int) -> np.ndarray:
    """For each picture the one of its group that is packed: (n,) places; the `old` ones keep theirs."""
    contents = np.frombuffer(b"".join(made.content for made in prints), "S32")
    _, first, group = np.unique(contents, return_index=True, return_inverse=True)
    parents = first[group]
    looks = {place: made.looks for place, made in enumerate(prints) if made.looks}
    if looks:
        places = list(looks)
        hashes = np.stack([look.hashes for look in looks.values()])
        pairs = alike_pairs(hashes, np.stack([look.colours for look in looks.values()]))
        _join(parents, ((places[a], places[b]) for a, b in pairs))
    roots = np.array([_root(parents, place) for place in range(len(prints))], np.int64)
    pixels = np.array([made.pixels for made in prints], np.int64)
    numbers = np.arange(len(prints))
    order = np.lexsort((numbers, -pixels, numbers >= old))
    best = np.empty(len(prints), np.int64)
    best[roots[order[::-1]]] = order[::-1]  # the last to be written, the first in order, stays
    kept = best[roots]
    kept[:old] = numbers[:old]
    return kept


def _join(parents: np.ndarray, pairs: Iterable[tuple[int, int]]) -> None:
    for a, b in pairs:
        low, high = sorted((_root(parents, a), _root(parents, b)))
        parents[high] = low


def _root(parents: np.ndarray, place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = int(parents[place])
    return place
