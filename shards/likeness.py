"""Which pictures look alike: perceptual hashes that survive re-encoding, mirroring and small crops.

The hash is ImageHash's `phash` with 12 x 12 frequencies: 144 bits, of the gray picture. Each picture
has the hash of itself, of nine crops of 92 % of its sides, and of its mirror image. Two are alike if
at most `MAX_DISTANCE` bits differ between any crop of one and the other, or the other mirrored. A crop
that keeps 90 % of a side anywhere is found so; colour alone tells no pictures apart.

Pairs are looked for by bands: the bits, lowest frequencies first, are cut into nine bands of 16, and
only pictures with a band that differs in at most one bit are compared. That finds every pair up to 17
differing bits, and nearly every one up to the limit, without comparing all pairs.
"""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
from PIL import Image, ImageOps

from dvae.errors import UserError

MAX_DISTANCE = 30  # bits of 144
HASHES = 11  # of a picture: itself, nine crops, mirrored
WORDS = 3  # uint64 of a hash
SIDE = 128  # pixels, the shorter side that hashes are made from
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


def hashes_of(image: Image.Image) -> np.ndarray | None:
    """The hashes of a picture, (HASHES, WORDS) uint64; None if it's too flat to have any.

    Args:
        image: upright; its shorter side should be SIDE pixels at least.
    """
    gray = image.convert("L")
    gray.thumbnail((2 * SIDE, 2 * SIDE))
    if np.asarray(gray.resize((32, 32), Image.Resampling.BOX)).std() < _MIN_CONTRAST:
        return None
    views = [gray, *_crops(gray), ImageOps.mirror(gray)]
    phash = load_imagehash().phash
    bits = np.stack([phash(view, _SIDE_BITS).hash.ravel()[_ORDER] for view in views])
    packed = np.zeros((len(views), WORDS * 8), np.uint8)
    packed[:, : _BANDS * 2] = np.packbits(bits, axis=1)
    return packed.view(np.uint64)


def _crops(image: Image.Image) -> Iterator[Image.Image]:
    width, height = round(image.width * _KEPT), round(image.height * _KEPT)
    for down in (0, 1, 2):
        for right in (0, 1, 2):
            left, top = (image.width - width) * right // 2, (image.height - height) * down // 2
            yield image.crop((left, top, left + width, top + height))


def alike_pairs(hashes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of pictures that look alike, some of them several times.

    Args:
        hashes: (n, HASHES, WORDS) uint64, as `hashes_of` makes them.
    """
    # Equal hashes are settled first: a thousand copies would otherwise be a million candidates.
    _, first, place = np.unique(hashes[:, 0], axis=0, return_index=True, return_inverse=True)
    place = place.ravel()
    yield from zip(first[place].tolist(), range(len(hashes)), strict=True)
    distinct = hashes[first]
    known = np.concatenate([distinct[:, 0], distinct[:, -1]])
    for band in range(_BANDS):
        values = _band(known, band)
        order = np.argsort(values, kind="stable")
        starts = np.searchsorted(values[order], np.arange((1 << 16) + 1))
        for view in range(HASHES - 1):
            asked = np.ascontiguousarray(distinct[:, view])
            for a, b in _candidates(_band(asked, band), order, starts):
                near = np.bitwise_count(asked[a] ^ known[b]).sum(1) <= MAX_DISTANCE
                pairs = np.stack([a[near], b[near] % len(distinct)], 1)
                yield from map(tuple, first[pairs[pairs[:, 0] != pairs[:, 1]]].tolist())


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
