"""What the fuzzer does to a folder of shards: each kind of damage, drawn from a seeded generator."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from dvae.data.index import read_index, write_index
from dvae.data.manifest import read_splits
from tests.faults.shard_files import SAME_CHECKSUM, flip

BLOCK = 512
HEADERS = (0, 3)  # of a sample's five blocks: of its picture and of its JSON
MANIFEST = "manifest.json"


def _tar(folder: Path, draw: Random) -> Path:
    return draw.choice(sorted(folder.glob("*.tar")))


def _rewrite(path: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    path.write_bytes(change(bytearray(path.read_bytes())))


def _samples(path: Path) -> int:
    return path.stat().st_size // (5 * BLOCK)


def truncate(folder: Path, draw: Random) -> None:
    """Cut a tar anywhere before its last block of zeros."""
    path = _tar(folder, draw)
    size = path.stat().st_size - 2 * BLOCK
    at_block = draw.random() < 0.3
    _rewrite(
        path,
        lambda data: data[
            : draw.randrange(size // BLOCK + 1) * BLOCK if at_block else draw.randrange(size)
        ],
    )


def flip_header(folder: Path, draw: Random, which: int = 0) -> None:
    """Flip a bit of a header, but those that leave its checksum the same number."""
    path = _tar(folder, draw)
    block = draw.randrange(_samples(path)) * 5 + HEADERS[which]
    byte, bit = draw.randrange(BLOCK), draw.randrange(8)
    flip(path, block * BLOCK + (0 if (byte, bit) in SAME_CHECKSUM else byte), bit)


def flip_json_header(folder: Path, draw: Random) -> None:
    """The same, in the header of a JSON."""
    flip_header(folder, draw, 1)


def flip_picture(folder: Path, draw: Random) -> None:
    """Flip a bit of a picture's bytes."""
    path = _tar(folder, draw)
    sample = draw.randrange(_samples(path))
    shards = read_splits(folder)["train"].shards
    row = read_index(folder, next(s for s in shards if s.name == path.name))[sample]
    flip(path, int(row["offset"]) + draw.randrange(int(row["size"])), draw.randrange(8))


def flip_json(folder: Path, draw: Random) -> None:
    """Flip a bit of a JSON's bytes."""
    path = _tar(folder, draw)
    flip(
        path,
        (draw.randrange(_samples(path)) * 5 + 4) * BLOCK + draw.randrange(10),
        draw.randrange(8),
    )


def flip_many(folder: Path, draw: Random) -> None:
    """Flip many bits, in every tar."""
    for path in folder.glob("*.tar"):
        for _ in range(draw.randrange(1, 40)):
            flip(path, draw.randrange(path.stat().st_size), draw.randrange(8))


def splice(folder: Path, draw: Random) -> None:
    """The start of one tar, then the rest of another from some byte or block on."""
    first, second = (path.read_bytes() for path in (_tar(folder, draw), _tar(folder, draw)))
    step = draw.choice((1, BLOCK, 5 * BLOCK))
    cuts = [draw.randrange(0, len(data), step) for data in (first, second)]
    _tar(folder, draw).write_bytes(first[: cuts[0]] + second[cuts[1] :])


def duplicate(folder: Path, draw: Random) -> None:
    """Some blocks stand twice, there or elsewhere."""
    path = _tar(folder, draw)

    def change(data: bytearray) -> bytes:
        blocks = len(data) // BLOCK
        start, count, place = draw.randrange(blocks), draw.choice((1, 3, 5)), draw.randrange(blocks)
        piece = data[start * BLOCK : (start + count) * BLOCK]
        return data[: place * BLOCK] + piece + data[place * BLOCK :]

    _rewrite(path, change)


def swap(folder: Path, draw: Random) -> None:
    """Two members, or two samples, change their places; the tar keeps its size."""
    path = _tar(folder, draw)
    part = draw.choice(((0, 5), (0, 3), (3, 2), (1, 2)))

    def change(data: bytearray) -> bytes:
        places = [(draw.randrange(len(data) // (5 * BLOCK)) * 5 + part[0]) * BLOCK for _ in "ab"]
        one, two = (bytes(data[place : place + part[1] * BLOCK]) for place in places)
        data[places[0] : places[0] + len(two)] = two
        data[places[1] : places[1] + len(one)] = one
        return data

    _rewrite(path, change)


def bend_size(folder: Path, draw: Random) -> None:
    """A header names another size, under a right checksum."""
    path = _tar(folder, draw)
    place = (draw.randrange(_samples(path)) * 5 + draw.choice(HEADERS)) * BLOCK
    sizes = (b"%011o\0" % draw.randrange(1 << draw.randrange(1, 33)), b"\x80" + draw.randbytes(11))
    odd = (b"\xff" * 12, b"-0000000001\0", draw.randbytes(12), b"0" * 12, b"77777777777\0")

    def change(data: bytearray) -> bytes:
        data[place + 124 : place + 136] = draw.choice(sizes + odd)
        data[place + 156 : place + 157] = draw.choice((b"0", b"0", b"0", b"x", b"L", b"S", b"g"))
        data[place + 148 : place + 156] = b" " * 8
        data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + BLOCK])
        return data

    _rewrite(path, change)


def bend_manifest(folder: Path, draw: Random) -> None:
    """The manifest's bytes are cut, flipped or replaced."""

    def change(data: bytearray) -> bytes:
        if draw.random() < 0.2:
            return data[: draw.randrange(len(data))]
        for _ in range(draw.choice((1, 1, 2, 9))):
            data[draw.randrange(len(data))] = draw.choice(b'0123456789"{}[]:,-.e\\ntrue\0\xff')
        return data

    _rewrite(folder / MANIFEST, change)


def bend_manifest_value(folder: Path, draw: Random) -> None:
    """A value of the manifest becomes another, of any type."""
    value = json.loads((folder / MANIFEST).read_text())
    odd = (None, True, -1, 0, 1, 2.5, 2**31, 2**70, float("inf"), "", "x.tar", "../a.tar", [], {})
    shard = draw.choice(value["splits"]["train"])
    holder, key = draw.choice(
        [(shard, key) for key in shard]
        + [(value, "splits"), (value["splits"], "train"), (value, "format")]
    )
    holder[key] = draw.choice(odd)
    (folder / MANIFEST).write_text(json.dumps(value))


def bend_index_file(folder: Path, draw: Random) -> None:
    """An index's bytes are cut or replaced; half of the time the manifest vouches for them."""
    path = draw.choice(sorted(folder.glob("*.npy")))

    def change(data: bytearray) -> bytes:
        if draw.random() < 0.2:
            return data[: draw.randrange(len(data))]
        for _ in range(draw.choice((1, 2, 9))):
            data[draw.randrange(draw.choice((128, len(data))))] = draw.randrange(256)
        return data

    _rewrite(path, change)
    if draw.random() < 0.5:
        _vouch(folder, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def bend_index_value(folder: Path, draw: Random) -> None:
    """A row of an index says something else, and the manifest vouches for it."""
    shard = draw.choice(read_splits(folder)["train"].shards)
    rows = read_index(folder, shard)
    row, field = draw.randrange(len(rows)), draw.choice(rows.dtype.names)
    largest = np.iinfo(rows.dtype[field]).max
    values = (0, 1, BLOCK, largest, largest // 2 + 1, draw.randrange(largest), draw.randrange(9000))
    rows[field][row] = min(draw.choice(values), int(largest))
    if draw.random() < 0.2:
        rows = np.concatenate([rows, rows[:1]])
    _vouch(folder, shard.index_name, write_index(folder / shard.index_name, rows))


def _vouch(folder: Path, index_name: str, digest: str) -> None:
    value = json.loads((folder / MANIFEST).read_text())
    for shard in value["splits"]["train"]:
        if shard["name"].replace(".tar", ".index.npy") == index_name:
            shard["index_sha256"] = digest
    (folder / MANIFEST).write_text(json.dumps(value))


OF_TARS = (
    truncate,
    flip_header,
    flip_json_header,
    flip_picture,
    flip_json,
    flip_many,
    splice,
    duplicate,
    swap,
    bend_size,
)
OF_INDEXES = (bend_manifest, bend_manifest_value, bend_index_file, bend_index_value)
