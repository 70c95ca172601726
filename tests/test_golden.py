"""What a folder packs to stays the same bytes from version to version."""

import hashlib
import json
import struct
import zlib

from shards.pack import main

OPTIONS = {
    "boxes": None,
    "pictures": "928d7b5b572c8eeeaf52d84586c150c1e389b90e15f188a3c17780814a319963",
    "quality": 92,
    "seed": 5,
    "shard_bytes": 4096,
    "size": 16,
    "split": "train",
    "val": 0.4,
}
DIGEST = "47ebce5b1b1c4aaf44e1ff9b40ce877856d9496244bb16111ad55447be3e50b9"


def png(number: int) -> bytes:
    """A gray PNG of 8x8 pixels, stored without compression, so that no encoder's version matters."""
    rows = b"".join(b"\0" + bytes([number] * 8) for _ in range(8))
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(rows), len(rows) ^ 0xFFFF) + rows
    stored += struct.pack(">I", zlib.adler32(rows))
    parts = (b"IHDR" + struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0), b"IDAT" + stored, b"IEND")
    chunks = [struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_folder_packs_to_the_bytes_that_it_always_did(tmp_path):
    for number in range(12):
        folder = tmp_path / "photos" / ("chow", "pug/young", ".")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"text")
    out = tmp_path / "out"
    arguments = ["--size", "16", "--val", "0.4", "--seed", "5", "--shard-bytes", "4K"]
    assert main([str(tmp_path / "photos"), str(out), *arguments]) == 0
    digest = hashlib.sha256()
    for path in sorted(out.iterdir()):
        if path.suffix in (".tar", ".jsonl"):
            digest.update(path.name.encode() + b"\n" + path.read_bytes())
    about = json.loads((out / "manifest.json").read_bytes())["about"]
    assert about["options"] == OPTIONS
    assert digest.hexdigest() == DIGEST
