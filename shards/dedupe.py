"""Which pictures are left out as duplicates, and of which one each is a duplicate.

`exact`: equal bytes, and equal boxes. `near`: those, and pictures that look alike (`shards.likeness`).
Pictures that are alike directly or through others make a group; the one of a group that is packed is
the one in the finished set that is appended to, else the one of the most pixels, else the first. So no
two pictures of a group can come to stand on two sides of a split.
"""

import hashlib
import io
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dvae.data.formats import FORMATS, UNREADABLE, to_rgb
from shards.finished import Finished, content_of, samples_in, with_box
from shards.form import Form
from shards.geometry import Box
from shards.likeness import COLOURS, HASHES, SIDE, Looks, alike_pairs, load_imagehash, looks_of
from shards.parallel import in_order
from shards.pictures import PictureError, prepare
from shards.sources import Item, Source, shown

NEAR = "near"
DUPLICATE = "duplicate"  # how the reasons of duplicates start
NEAR_DUPLICATE = "near duplicate"
DUPLICATES = (DUPLICATE, NEAR_DUPLICATE)


class Print(NamedTuple):
    """A picture's fingerprint."""

    content: bytes  # `shards.finished.with_box`
    pixels: int = 0
    looks: Looks | None = None  # None for `exact`, and for flat and unreadable pictures


class _Prints:
    """The fingerprints of pictures end to end: 24 bytes a picture, and 792 more for its looks."""

    def __init__(self) -> None:
        self.pixels = array("q")
        self._contents = bytearray()  # the first half of each: two of 10^9 are equal by 10^-21
        self._places = array("q")  # of those that have looks
        self._hashes = bytearray()
        self._colours = bytearray()

    def add(self, made: Print) -> None:
        self.pixels.append(made.pixels)
        self._contents += made.content[:16]
        if made.looks:
            self._places.append(len(self.pixels) - 1)
            self._hashes += made.looks.hashes.tobytes()
            self._colours += made.looks.colours.tobytes()

    def contents(self) -> np.ndarray:
        """(n,) numbers, equal where the contents are: the place of the first that has them."""
        halves = np.frombuffer(self._contents, "S16")
        _, first, group = np.unique(halves, return_index=True, return_inverse=True)
        return np.asarray(first[group])

    def alike(self) -> Iterator[tuple[int, int]]:
        """Pairs of places that look alike."""
        if self._places:
            hashes = np.frombuffer(self._hashes, np.uint64).reshape(-1, *HASHES)
            colours = np.frombuffer(self._colours, np.int8).reshape(-1, *COLOURS)
            for a, b in alike_pairs(hashes, colours):
                yield self._places[a], self._places[b]


class Duplicates(Mapping[int, str]):
    """The reason why each duplicate is left out, by its position; made when it's asked for.

    Args:
        kept: for each position the place of the picture that is packed instead, or its own; old
            pictures have the first places, and those of positions follow.
        is_exact: for each position, whether that one has its very bytes.
        names: of the old pictures.
        pictures: in order.
    """

    def __init__(
        self,
        kept: np.ndarray,
        is_exact: np.ndarray,
        names: Sequence[str],
        pictures: Sequence[Item],
    ) -> None:
        self._kept, self._is_exact = kept, is_exact
        self._names, self._pictures = names, pictures
        self._is_left_out = kept != np.arange(len(names), len(names) + len(kept))

    def __getitem__(self, position: int) -> str:
        if not self._is_left_out[position]:
            raise KeyError(position)
        place = int(self._kept[position])
        old = len(self._names)
        name = self._names[place] if place < old else shown(self._pictures[place - old].name)
        if self._is_exact[position]:
            return f"{DUPLICATE}: has the bytes of {name}"
        return f"{NEAR_DUPLICATE}: looks like {name}"

    def __contains__(self, position: object) -> bool:
        return bool(self._is_left_out[position])

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self._is_left_out).tolist())

    def __len__(self) -> int:
        return int(self._is_left_out.sum())


def find_duplicates(
    form: Form | None,
    source: Source,
    pictures: Sequence[Item],
    finished: Finished,
    workers: int,
    bar: tqdm,
) -> Duplicates:
    """Which pictures are left out, and why.

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
    names: list[str] = []
    prints = _Prints()
    samples = samples_in(finished, workers)
    for name, made in in_order(partial(_old_print, form), samples, workers):
        names.append(name)
        prints.add(made)
    old = len(names)
    bar.reset(len(pictures))
    for made in in_order(partial(_print_of, source, form), pictures, workers):
        prints.add(made)
        bar.update()
    contents = prints.contents()
    kept = _kept(contents, prints, old)
    is_exact = contents == contents[kept]
    return Duplicates(kept[old:], is_exact[old:], names, pictures)


def _old_print(
    form: Form | None, sample: tuple[dict[str, Any], Callable[[], bytes]]
) -> tuple[str, Print]:
    about, picture = sample
    content = content_of(about)
    return about["source"], _look(content, picture()) if form else Print(content)


def _print_of(source: Source, form: Form | None, item: Item) -> Print:
    try:
        data = source.read(item)
    except PictureError:
        return Print(hashlib.sha256(b"unreadable " + item.name).digest())
    content = with_box(hashlib.sha256(data).digest(), item.box)
    if not form:
        return Print(content)
    try:
        # As the packer decodes it, so that what it will reject stands for no group; of what
        # `--check header` lets pass, damage amid the data is seen, and stands for none either.
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
    """The fingerprint of a picture that was packed or prepared."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return Print(content, image.width * image.height, looks_of(to_rgb(image)))
    except UNREADABLE:  # packed with `--check header`
        return Print(content)


def _kept(contents: np.ndarray, prints: _Prints, old: int) -> np.ndarray:
    """For each picture the one of its group that is packed: (n,) places; the `old` ones keep theirs."""
    parents = contents.copy()
    _join(parents, prints.alike())
    roots = _roots(parents)
    pixels = np.frombuffer(prints.pixels, np.int64)
    numbers = np.arange(len(parents))
    order = np.lexsort((numbers, -pixels, numbers >= old))
    best = np.empty(len(parents), np.int64)
    best[roots[order[::-1]]] = order[::-1]  # the last to be written, the first in order, stays
    kept = best[roots]
    kept[:old] = numbers[:old]
    return np.asarray(kept)


def _join(parents: np.ndarray, pairs: Iterable[tuple[int, int]]) -> None:
    for a, b in pairs:
        low, high = sorted((_root(parents, a), _root(parents, b)))
        parents[high] = low


def _root(parents: np.ndarray, place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = int(parents[place])
    return place


def _roots(parents: np.ndarray) -> np.ndarray:
    while not np.array_equal(above := parents[parents], parents):
        parents = above
    return parents
