"""Draws and permutations that are functions of a key: nothing is kept, and nobody's turn matters.

Integers are mixed by splitmix64 (Steele et al. 2014); permutations are Feistel networks with cycle
walking (Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

import numpy as np

ROUNDS = 8
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
CHUNK = 2**14  # indices permuted at a time: what fits a processor's cache

# The purpose of a draw: equal seeds, epochs and ids give unrelated numbers for each of them.
SHARDS, ROTATION, SAMPLES, WINDOWS, CROP, FLIP, NOISE, MIXTURE, SOURCE, AUGMENT = range(10)


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: a bijection of uint64 whose every output bit hangs on every input bit."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def key(*parts: int | np.ndarray) -> np.ndarray:
    """A uint64 made of several integers in their order: (1,), or (n,) where a part is (n,)."""
    result = np.zeros(1, dtype=np.uint64)
    for part in parts:
        result = mix(result + GOLDEN + mix(np.atleast_1d(part).astype(np.uint64)))
    return result


def uniform(ids: np.ndarray, count: int, *parts: int | np.ndarray) -> np.ndarray:
    """Keyed draws from [0, 1): (n,) sample ids -> (n, count), the same whoever asks."""
    keys = key(*parts, ids)[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    return (mix(keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """A keyed permutation of 0 … size-1, evaluated at `index`, without building it.

    Args:
        index: (n,) integers in [0, size).
        size: of the domain.
        keys: (1,) or (n,) uint64; each key is another permutation.

    Returns:
        (n,) int64 in [0, size).
    """
    result = np.asarray(index).astype(np.uint64)
    half = max(2, ((size - 1).bit_length() + 1) // 2)
    keys = np.broadcast_to(keys, result.shape)
    for start in range(0, len(result), CHUNK):
        here = slice(start, start + CHUNK)
        result[here] = _walk(result[here], size, half, keys[here])
    return result.astype(np.int64)


def _walk(x: np.ndarray, size: int, half: int, keys: np.ndarray) -> np.ndarray:
    """One step of the permutation; what lands outside of the domain goes on until it comes back."""
    x = _feistel(x, half, keys)
    outside = np.flatnonzero(x >= size)
    while outside.size:
        moved = _feistel(x[outside], half, keys[outside])
        x[outside] = moved
        outside = outside[moved >= size]
    return x


def _feistel(x: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    shift, mask = np.uint64(half), np.uint64(2**half - 1)
    left, right = x >> shift, x & mask
    for _ in range(ROUNDS):
        keys = keys + GOLDEN
        left, right = right, left ^ (mix(right + keys) & mask)
    return (left << shift) | right
