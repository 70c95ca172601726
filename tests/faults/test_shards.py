"""Rows 20 to 26 of the catalogue of faults: what damaged shards cost, and that it's named."""

import random

import numpy as np
import pytest

from dvae.data.index import write_index
from dvae.data.manifest import Shard, find_split, read_splits, write_shard_manifest
from dvae.data.order import Order
from dvae.data.reader import BadSample, Reader
from dvae.errors import DataError
from shards.index import main as index
from tests.faults.shard_files import (
    SAME_CHECKSUM,
    flip,
    make_shards,
    picture,
    read_all,
    skipped,
    write_tar,
)

SHARD = "train-000001.tar"  # of samples 4 … 7
WHOLE = {number: picture(number) for number in range(12)}

# Samples of `make_shards` take five blocks: a header, two of JPEG, a header, one of JSON.
CUTS = {
    "nothing left": 0,
    "in the first header": 100,
    "between two samples": 2 * 2560,
    "between picture and JSON": 2560 + 1536,
    "in a header": 2560 + 200,
    "behind a header": 2560 + 512,
    "in a picture": 2560 + 512 + 300,
    "in a JSON": 2560 + 2048 + 5,
    "in the padding": 2560 + 1536 - 1,
    "no end": 4 * 2560,
    "half an end": 4 * 2560 + 512,
}


@pytest.fixture
def folder(tmp_path):
    return make_shards(tmp_path / "shards")


def cut(path, size):
    with path.open("r+b") as file:
        file.truncate(size)


def reindexed(folder):
    """The folder with a new index, made from the tars alone; None where that's refused."""
    for path in [folder / "manifest.json", *folder.glob("*.npy")]:
        path.unlink(missing_ok=True)
    return None if index([str(folder)]) else folder


@pytest.mark.parametrize("size", CUTS.values(), ids=CUTS)
def test_a_shard_cut_anywhere_is_refused_by_its_size_before_the_first_step(folder, size):
    cut(folder / SHARD, size)
    with pytest.raises(DataError, match=rf"{SHARD} has {size} of 11264 bytes: copy"):
        Reader(find_split(folder, "train"))


@pytest.mark.parametrize("skip", [False, True], ids=["while it is read", "before, and skipped"])
@pytest.mark.parametrize("size", CUTS.values(), ids=CUTS)
def test_a_cut_shard_that_is_read_loses_what_is_gone_and_names_it(folder, size, skip):
    if skip:
        cut(folder / SHARD, size)
    reader = Reader(find_split(folder, "train"), skip=skip)
    cut(folder / SHARD, size)
    assert (f"{SHARD} has {size} of 11264 bytes" in "".join(reader.lacks)) == skip
    read = read_all(folder, reader=reader)
    kept = [n for n in range(4) if size >= n * 2560 + 512 + len(WHOLE[4 + n])]
    assert read.delivered == {n: d for n, d in WHOLE.items() if n // 4 != 1 or n - 4 in kept}
    for sample, bad in read.bad.items():
        assert bad.place.shard == SHARD
        assert bad.place.offset == (sample - 4) * 2560 + 512
        assert "bytes are there: the shard was cut short" in bad.reason


@pytest.mark.parametrize("size", CUTS.values(), ids=CUTS)
def test_a_cut_tar_without_an_index_is_refused_unless_nothing_is_lost(folder, size, capsys):
    cut(folder / SHARD, size)
    if size < CUTS["half an end"]:
        assert reindexed(folder) is None
        assert SHARD in capsys.readouterr().err
    else:
        assert read_all(reindexed(folder)).delivered == WHOLE


def test_300_random_cuts_are_all_found_with_and_without_an_index(tmp_path, record_property):
    folder = make_shards(tmp_path / "shards", shards=1)
    draw = random.Random(0)
    data = (folder / "train-000000.tar").read_bytes()
    split = find_split(folder, "train")
    for _ in range(300):
        (folder / "train-000000.tar").write_bytes(data[: draw.randrange(len(data) - 1024)])
        with pytest.raises(DataError, match="copy them again"):
            Reader(split)
        assert index([str(folder)]) == 2
    record_property("cuts found", 300)


def test_400_flips_in_headers_cost_the_sample_of_the_header_alone(folder, record_property):
    draw = random.Random(1)
    reader = Reader(find_split(folder, "train"))
    for _ in range(400):
        sample, of_json = draw.randrange(12), draw.random() < 0.3
        place = reader.place(sample).offset - 512 + of_json * 1536
        where = draw.choice([p for p in np.ndindex(512, 8) if p not in SAME_CHECKSUM])
        path = folder / reader.place(sample).shard
        flip(path, place + where[0], where[1])
        bad = read_bad(reader, range(12))
        assert bad == ({} if of_json else {sample: "its header in the tar is damaged"})
        assert reader.about(sample) == ({} if of_json else {"label": f"dog {sample}"})
        flip(path, place + where[0], where[1])
    record_property("flips in headers found", 400)


def read_bad(reader, samples):
    """Why each of the samples can't be read; the others are what they were."""
    bad = {}
    for sample in samples:
        try:
            assert reader.picture(sample).data == WHOLE[sample]
        except BadSample as error:
            bad[sample] = str(error)
    return bad


def test_400_flips_in_pictures_are_all_found(folder, record_property):
    draw = random.Random(2)
    reader = Reader(find_split(folder, "train"))
    for _ in range(400):
        sample, bit = draw.randrange(12), draw.randrange(8)
        place = reader.place(sample)
        where = place.offset + draw.randrange(len(WHOLE[sample]))
        flip(folder / place.shard, where, bit)
        bad = read_bad(reader, range(12))
        assert list(bad) == [sample]
        assert "CRC-32 differs" in bad[sample]
        flip(folder / place.shard, where, bit)
    record_property("flips in pictures found", 400)


def test_a_zero_length_shard_is_named(folder, capsys):
    cut(folder / SHARD, 0)
    assert reindexed(folder) is None
    assert f"{SHARD} is empty (0 bytes)" in capsys.readouterr().err


def test_shards_without_a_sample_are_read_over(folder, capsys):
    shards = read_splits(folder)["train"].shards
    empty = []
    for name in ("train-000008.tar", "train-000009.tar"):
        (folder / name).write_bytes(bytes(1024))
        digest = write_index(folder / f"{name[:-4]}.index.npy", np.array([]))
        empty.append(Shard(name, 1024, "0" * 64, 0, digest))
    write_shard_manifest(folder, {"train": [empty[0], shards[0], empty[1], *shards[1:]]}, {})
    assert read_all(folder).delivered == WHOLE
    order = Order(find_split(folder, "train").counts, 0, 4, window=2)
    assert sorted(np.concatenate([order.ids(0, step) for step in range(3)])) == list(range(12))
    assert read_all(reindexed(folder)).delivered == WHOLE
    assert "left out: train-000008.tar, train-000009.tar (2)" in capsys.readouterr().out


def test_a_shard_whose_samples_are_all_bad_costs_no_other(folder):
    reader = Reader(find_split(folder, "train"))
    for sample in range(4, 8):
        flip(folder / SHARD, reader.place(sample).offset + 99)
    read = read_all(folder)
    assert read.delivered == {n: d for n, d in WHOLE.items() if n // 4 != 1}
    assert sorted(read.bad) == [4, 5, 6, 7]
    assert [bad.place.key for _, bad in sorted(read.bad.items())] == [
        f"train-{sample:09d}" for sample in range(4, 8)
    ]


def test_parts_of_samples_that_are_missing_or_damaged_are_counted(tmp_path):
    entries = [
        ("a.json", b"{}"),
        ("b.jpg", WHOLE[0]),
        ("c.jpg", WHOLE[1]),
        ("c.json", b'{"label": '),
        ("d.jpg", WHOLE[2]),
        ("d.json", b"[" * 100_000),
        ("e.jpg", WHOLE[3]),
        ("e.json", b'["no object"]'),
    ]
    write_tar(tmp_path / "train-0.tar", entries)
    read = read_all(reindexed(tmp_path))
    assert list(read.delivered.values()) == [WHOLE[n] for n in range(4)]
    reader = Reader(find_split(tmp_path, "train"))
    assert [reader.about(sample) for sample in range(4)] == [{}] * 4
    assert skipped(tmp_path) == [
        ("a.json", "sample without a picture"),
        ("c.json", "damaged JSON"),
        ("d.json", "damaged JSON"),
    ]


def test_of_samples_with_one_key_in_a_shard_the_first_counts(tmp_path):
    def sample(key, number):
        return [(f"{key}.jpg", WHOLE[number]), (f"{key}.json", b'{"label": "%d"}' % number)]

    write_tar(tmp_path / "t-0.tar", [*sample("a", 0), *sample("a", 1), *sample("b", 2)])
    write_tar(tmp_path / "t-1.tar", [*sample("a", 3), *sample("b", 4), *sample("a", 5)])
    read = read_all(reindexed(tmp_path))
    assert list(read.delivered.values()) == [WHOLE[n] for n in (0, 2, 3, 4)]
    reader = Reader(find_split(tmp_path, "t"))
    assert [reader.about(n)["label"] for n in range(4)] == ["0", "2", "3", "4"]
    assert skipped(tmp_path) == [
        ("a.jpg", "a further picture of its sample"),
        ("a.jpg", "an earlier sample has its key"),
        ("a.json", "a further JSON of its sample"),
    ]


def test_half_a_sample_never_mixes_with_its_key_in_the_next_shard(tmp_path):
    write_tar(tmp_path / "t-0.tar", [("a.jpg", WHOLE[0]), ("b.jpg", WHOLE[1])])
    write_tar(tmp_path / "t-1.tar", [("b.json", b'{"label": "b"}'), ("c.jpg", WHOLE[2])])
    read = read_all(reindexed(tmp_path))
    assert list(read.delivered.values()) == [WHOLE[n] for n in range(3)]
    reader = Reader(find_split(tmp_path, "t"))
    assert [reader.about(sample) for sample in range(3)] == [{}] * 3
    assert skipped(tmp_path) == [("b.json", "sample without a picture")]
