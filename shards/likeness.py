"""Which pictures look alike: perceptual hashes that survive re-encoding, mirroring and small crops.

The hash is ImageHash's `phash` with 12 x 12 frequencies: 144 bits, of the gray picture. Beside it stand
4 x 4 mean colours, freed of brightness and contrast. Each picture has both of itself, of nine crops of
92 % of its sides, and of its mirror image. Two are alike if any view of one is near the other, or the
other mirrored: at most 30 bits and 0.25 contrasts of colour apart. A crop that keeps 90 % of a side
anywhere is found so.

Pairs are looked for by bands: the bits, lowest frequencies first, are cut into nine bands of 16, and
only pictures with a band that differs in at most one bit are compared. That finds every pair up to 17
differing bits, and nearly every one up to the limit, without comparing all pairs.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dvae.errors import UserError

SIDE = 128  # pixels, the shorter side that hashes are made from
_MAX_BITS = 30  # of 144
_MAX_COLOUR = 0.25  # root mean square, in standard deviations of the gray picture
_VIEWS = 11  # of a picture: itself, nine crops, mirrored
_WORDS = 3  # uint64 of a hash
HASHES = (_VIEWS, _WORDS)
COLOURS = (_VIEWS, 48)
_COLOUR_STEPS = 32  # a unit of colour distance is so many steps of an int8
_SIDE_BITS = 12
_KEPT = 0.92  # of a side, by a crop
_BANDS = 9
_MIN_CONTRAST = 4.0  # gray levels of 255; the hash of a flat picture is noise
_CHUNK = 1 << 21  # candidates compared at a time
_MASKS = np.array([0, *(1 << bit for bit in range(16))], np.uint16)
_FREQUENCIES = np.add.outer(np.arange(_SIDE_BITS), np.arange(_SIDE_BITS)).ravel()
_ORDER = np.argsort(_FREQUENCIES, kind="stable")


def load_imagehash() -> ModuleType:
    """ImageHash, an extra because it brings scipy.

    Raises:
        UserError: it isn't installed.
    """
    try:
        import imagehash
    except ImportError:
        raise UserError(
            "--dedupe near needs ImageHash: pip install 'dvae[dedupe]', or use --dedupe exact"
        ) from None
    return imagehash


class Looks(NamedTuple):
    """What a picture looks like, in 11 views: itself, nine crops, mirrored."""

    hashes: np.ndarray  # (11, 3) uint64
    colours: np.ndarray  # (11, 48) int8


def looks_of(image: Image.Image) -> Looks | None:
    """What a picture looks like; None if it's too flat to tell.

    Args:
        image: RGB, upright; its shorter side should be SIDE pixels at least.
    """
    image = image.copy()
    image.thumbnail((2 * SIDE, 2 * SIDE))
    if _gray(image).std() < _MIN_CONTRAST:
        return None
    views = [image, *_crops(image), ImageOps.mirror(image)]
    phash = load_imagehash().phash
    bits = np.stack([phash(view, _SIDE_BITS).hash.ravel()[_ORDER] for view in views])
    packed = np.zeros((_VIEWS, _WORDS * 8), np.uint8)
    packed[:, : _BANDS * 2] = np.packbits(bits, axis=1)
    return Looks(packed.view(np.uint64), np.stack([_colours(view) for view in views]))


def _gray(image: Image.Image) -> np.ndarray:
    small = image.convert("L").resize((32, 32), Image.Resampling.BOX)
    return np.asarray(small, np.float64)


def _colours(image: Image.Image) -> np.ndarray:
    """Mean colours of 4 x 4 fields, freed of brightness and contrast: (48,) int8."""
    gray = _gray(image)
    fields = np.asarray(image.resize((4, 4), Image.Resampling.BOX), np.float64).ravel()
    free = (fields - gray.mean()) / max(float(gray.std()), _MIN_CONTRAST)
    return np.clip(np.round(free * _COLOUR_STEPS), -127, 127).astype(np.int8)


def _crops(image: Image.Image) -> Iterator[Image.Image]:
    width, height = round(image.width * _KEPT), round(image.height * _KEPT)
    for down in (0, 1, 2):
        for right in (0, 1, 2):
            left, top = (image.width - width) * right // 2, (image.height - height) * down // 2
            yield image.crop((left, top, left + width, top + height))


def alike_pairs(hashes: np.ndarray, colours: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of pictures that look alike, some of them several times.

    Args:
        hashes: (n, 11, 3) uint64, as in `Looks`.
        colours: (n, 11, 48) int8.
    """
    # Equal hashes are settled first: a thousand copies would otherwise be a million candidates.
    _, first, place = np.unique(hashes[:, 0], axis=0, return_index=True, return_inverse=True)
    first = first[place.ravel()]
    is_copy = _are_near(colours[:, 0], colours[first, 0])
    yield from zip(first[is_copy].tolist(), np.flatnonzero(is_copy).tolist(), strict=True)
    own = np.flatnonzero((first == np.arange(len(hashes))) | ~is_copy)
    known = np.concatenate([hashes[own, 0], hashes[own, -1]])
    known_colours = np.concatenate([colours[own, 0], colours[own, -1]])
    for band in range(_BANDS):
        values = _band(known, band)
        order = np.argsort(values, kind="stable")
        starts = np.searchsorted(values[order], np.arange((1 << 16) + 1))
        for view in range(_VIEWS - 1):
            asked, asked_colours = hashes[own, view], colours[own, view]
            for a, b in _candidates(_band(asked, band), order, starts):
                near = np.bitwise_count(asked[a] ^ known[b]).sum(1) <= _MAX_BITS
                near &= a != b % len(own)
                a, b = a[near], b[near]
                near = _are_near(asked_colours[a], known_colours[b])
                yield from zip(own[a[near]].tolist(), own[b[near] % len(own)].tolist(), strict=True)


def _are_near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether colours are near: (n, 48) int8 each -> (n,) bool."""
    square = (a.astype(np.float32) - b) ** 2
    return np.asarray(np.sqrt(square.mean(1)) <= _MAX_COLOUR * _COLOUR_STEPS)


def _band(hashes: np.ndarray, band: int) -> np.ndarray:
    return np.ascontiguousarray(hashes).view(np.uint16)[:, band]


def _candidates(
    asked: np.ndarray, order: np.ndarray, starts: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places in `asked` and in `known` whose bands differ by a bit at most, a chunk at a time.

    Args:
        asked: (n,) uint16, a band of each.
        order: the places in `known`, sorted by their band.
        starts: where in `order` each of the 65536 values of a band starts; one more is the end.
    """
    for mask in _MASKS:
        values = (asked ^ mask).astype(np.int64)
        counts = starts[values + 1] - starts[values]
        ends = np.cumsum(counts)
        row = 0
        while row < len(asked):
            done = ends[row - 1] if row else 0
            stop = max(row + 1, int(np.searchsorted(ends, done + _CHUNK, "right")))
            count = counts[row:stop]
            rows = np.repeat(np.arange(row, stop), count)
            within = np.arange(len(rows)) - np.repeat(ends[row:stop] - count - done, count)
            yield rows, order[np.repeat(starts[values[row:stop]], count) + within]
            row = stop
