"""Small real shards, where their parts lie, and what reading them gives."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dvae.data.batches import Bad, Loader, Pictures
from dvae.data.manifest import find_split, write_shard_manifest
from dvae.data.plans import evaluation_plan
from dvae.data.reader import Reader
from shards.place import Place
from shards.tar import BLOCK
from shards.writer import ShardWriter, sample_of

SIZE = 16  # pixels of a batch's pictures
# Bits whose flip leaves a header's checksum the same number: a leading "0" and the two at its end.
SAME_CHECKSUM = {(148, 4), (154, 5), (155, 5)}


def picture(number: int) -> bytes:
    """A JPEG of 24 x 24 pixels, like no other, that takes two blocks of a tar."""
    draw = np.random.default_rng(number)
    coarse = draw.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((24, 24)).save(file, "JPEG", quality=75)
    data = file.getvalue()
    assert BLOCK < len(data) <= 2 * BLOCK
    return data


def make_shards(folder: Path, shards: int = 3, samples: int = 4, split: str = "train") -> Path:
    """`shards` tars of `samples` samples each, with indexes and a manifest, as the packer writes."""
    folder.mkdir(parents=True, exist_ok=True)
    full = []
    with ShardWriter(Place(folder), split, samples * 5 * BLOCK + 2 * BLOCK) as writer:
        for number in range(shards * samples):
            sample = sample_of(picture(number), "jpg", {"label": f"dog {number}"})
            full.append(writer.write(sample))
        full.append(writer.close())
    made = [finish() for finish in full if finish]
    assert [shard.samples for shard in made] == [samples] * shards
    write_shard_manifest(folder, {split: made}, {})
    return folder


def write_tar(path: Path, entries: list[tuple[str, bytes] | tarfile.TarInfo]) -> Path:
    """A tar of (name, bytes), or of headers without data."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as file:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                file.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size = len(entry[1])
            file.addfile(info, io.BytesIO(entry[1]))
    return path


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Flip one bit of a file in place, so that whoever has it open sees it."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


@dataclass(frozen=True)
class Read:
    """What reading every sample of a split gave: read + bad == planned, or `read_all` had raised."""

    delivered: dict[int, bytes]
    bad: dict[int, Bad]


def read_all(folder: Path, world_size: int = 1, reader: Reader | None = None) -> Read:
    """Read the training split to its end, every rank's share after the other's."""
    reader = reader or Reader(find_split(folder, "train"))
    delivered, bad = {}, {}
    for rank in range(world_size):
        plan = evaluation_plan(len(reader), 12, rank, world_size)
        with Loader(plan, Pictures(reader, SIZE), threads=1) as loader:
            for batch in loader:
                good = batch.ids[batch.weights > 0].tolist()
                assert not set(good) & (delivered.keys() | bad.keys())
                delivered |= {sample: reader.picture(sample).data for sample in good}
                bad |= {entry.sample: entry for entry in batch.bad}
    assert len(delivered) + len(bad) == len(reader)
    return Read(delivered, bad)


def skipped(folder: Path) -> list[tuple[str, str]]:
    """(member, reason) of each line of an indexing run's skipped.jsonl, sorted."""
    lines = (folder / "skipped.jsonl").read_text().splitlines()
    return sorted((entry["member"], entry["reason"]) for entry in map(json.loads, lines))
