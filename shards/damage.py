"""What is wrong with one shard: its tar, its index and its samples against the manifest."""

import hashlib
import json
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from isal.isal_zlib import crc32

from dvae.data.index import index_bytes, read_index
from dvae.data.manifest import Shard
from dvae.errors import UserError
from dvae.files import MANIFEST, sha256, write_bytes
from shards import tar
from shards.foreign import parts_of, samples_of

COPY = "copy it again, or pack again with --overwrite"


class Problem(NamedTuple):
    """Where a folder of shards falls short of its manifest."""

    name: str  # of the file
    what: str
    remedy: str


class Checked(NamedTuple):
    """What came of one shard."""

    shard: Shard
    problems: list[Problem]
    keys: np.ndarray  # (n,) uint64, a digest of each sample's key: 8 bytes a sample, not its name


def check_shard(folder: Path, repair: bool, shard: Shard) -> Checked:
    """Read a shard from end to end and compare.

    Args:
        folder: where the shard is.
        repair: write the index anew where it's wrong and the tar is right.
        shard: what the manifest says.
    """
    path = folder / shard.name
    damage = tar_damage(path, shard)
    problems = [Problem(shard.name, damage, COPY)] if damage else []
    keys = np.zeros(0, np.uint64)
    if index_problem := _check_index(folder, shard, repair and not damage):
        return Checked(shard, [*problems, index_problem], keys)
    try:
        rows = read_index(folder, shard)
        if path.is_file():
            with path.open("rb") as file:
                problems += _check_samples(file, shard, rows)
        if not damage:
            keys = np.array([_digest(key) for key in sample_keys(path, rows)], np.uint64)
    except UserError as error:
        problems.append(Problem(shard.name, str(error), COPY))
    return Checked(shard, problems, keys)


def sample_keys(path: Path, rows: np.ndarray) -> list[str]:
    """The key of the sample of each row, (n,) of `SAMPLE`, by the tar's own headers.

    Raises:
        UserError: the tar is damaged, or a row points at no member.
    """
    with path.open("rb") as file:
        found = {member.offset: member for member in tar.members(file, str(path))}
    keys = []
    for offset in rows["offset"].tolist():
        if offset not in found:
            raise UserError(f"{path} has no member at byte {offset}, where its index says")
        keys.append(parts_of(found[offset])[0])
    return keys


def tar_damage(path: Path, shard: Shard) -> str | None:
    """What is wrong with a tar by its size and SHA-256, or None."""
    try:
        size = path.stat().st_size
        digest = sha256(path) if size == shard.bytes else ""
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if size != shard.bytes:
        return f"has {size} of {shard.bytes} bytes"
    return None if digest == shard.sha256 else f"does not have the SHA-256 that {MANIFEST} names"


def _check_index(folder: Path, shard: Shard, repair: bool) -> Problem | None:
    path = folder / shard.index_name
    try:
        if sha256(path) == shard.index_sha256:
            return None
        what = f"is not the index that {MANIFEST} names"
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
    if not repair:
        return Problem(path.name, what, "run shards.verify with --repair-index on an intact tar")
    try:
        data = index_bytes(samples_of(folder / shard.name)[0])
    except UserError as error:
        return Problem(path.name, f"{what}, and {error}", COPY)
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        return Problem(path.name, f"{what}, nor is the one made anew", "run python -m shards.index")
    write_bytes(path, data)
    return None


def _check_samples(file: BinaryIO, shard: Shard, rows: np.ndarray) -> list[Problem]:
    """One line for all damaged samples of a shard, which names the first."""
    damaged = []
    for number, row in enumerate(rows):
        if what := _sample_damage(file, row):
            damaged.append(f"sample {number} at byte {row['offset']} {what}")
    if not damaged:
        return []
    return [Problem(shard.name, f"{len(damaged)} of {len(rows)} samples: {damaged[0]}", COPY)]


def _sample_damage(file: BinaryIO, row: np.void) -> str | None:
    data = os.pread(file.fileno(), int(row["size"]), int(row["offset"]))
    if crc32(data) != row["crc32"]:
        return "does not have its CRC-32"
    if not row["json_size"]:
        return None
    note = os.pread(file.fileno(), int(row["json_size"]), int(row["json_offset"]))
    if crc32(note) != row["json_crc32"]:
        return "has a JSON without its CRC-32"
    try:
        about = json.loads(note)
    except (ValueError, RecursionError):
        return "has a JSON that is none"
    digest = about.get("sha256") if isinstance(about, dict) else None
    # img2dataset's `sha256` is of what it downloaded, which it may have resized since.
    if digest and "bytes" in about and digest != hashlib.sha256(data).hexdigest():
        return "does not have the SHA-256 that its JSON names"
    return None


def _digest(key: str) -> int:
    data = key.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
