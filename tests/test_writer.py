"""shards/writer.py: what is given to it is what tarfile, the index and the digests find."""

import random
import tarfile
import zlib

from dvae.data.index import read_index
from dvae.data.storage import LocalStore
from dvae.files import sha256
from shards.place import Place
from shards.writer import ShardWriter, sample_of

MEBIBYTE = 1 << 20


def test_samples_smaller_and_larger_than_what_is_written_at_once_come_back(tmp_path):
    draw = random.Random(0)
    near = [MEBIBYTE + step for step in (-1536, -1025, -512, -1, 0, 1, 512)]
    sizes = [3, 0, *near, 700_000, 700_000, 3 * MEBIBYTE, 40, 5 * MEBIBYTE, *near[::-1], 9]
    pictures = [draw.randbytes(size) for size in sizes]
    with ShardWriter(Place(tmp_path), "train", 9 * MEBIBYTE) as writer:
        full = [writer.write(sample_of(data, "jpg", {"label": "pug"})) for data in pictures]
        shards = [finish() for finish in (*full, writer.close()) if finish]
    assert len(shards) > 2
    found = []
    for shard in shards:
        path = tmp_path / shard.name
        assert (path.stat().st_size, sha256(path)) == (shard.bytes, shard.sha256)
        with tarfile.open(path) as tar:
            members = {m.offset_data: tar.extractfile(m).read() for m in tar.getmembers()}
        for row in read_index(LocalStore(tmp_path), shard):
            found.append(members[row["offset"]])
            assert (len(found[-1]), zlib.crc32(found[-1])) == (row["size"], row["crc32"])
            assert members[row["json_offset"]] == b'{"label": "pug"}'
    assert found == pictures
