"""What a changed data set says of its change."""

import dataclasses
import hashlib
import json

import pytest

from dvae.data.changes import data_differences
from dvae.data.manifest import Shard, find_split

SHARDS = [Shard(f"train-{i:06}.tar", 1000 + i, f"{i:064}", 10 + i, f"{i:064x}") for i in range(6)]
EDITED = dataclasses.replace(SHARDS[2], sha256="f" * 64)
SHORTER = dataclasses.replace(SHARDS[4], samples=3, sha256="e" * 64)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (SHARDS, SHARDS, []),
        (
            SHARDS[:5],
            SHARDS,
            ["1 shards added (train-000005.tar)", "60 samples became 75"],
        ),
        (
            SHARDS,
            SHARDS[4:],
            [
                "4 shards removed (train-000000.tar, train-000001.tar, train-000002.tar …)",
                "75 samples became 29",
            ],
        ),
        (
            SHARDS,
            [*SHARDS[:2], EDITED, *SHARDS[3:]],
            ["1 shards with other bytes (train-000002.tar)"],
        ),
        (
            SHARDS,
            [*SHARDS[:4], SHORTER, SHARDS[5]],
            [
                "1 shards with another number of samples (train-000004.tar)",
                "75 samples became 64",
            ],
        ),
        (
            SHARDS,
            [SHARDS[1], SHARDS[0], *SHARDS[2:]],
            ["another order of the shards: train-000001.tar where train-000000.tar was"],
        ),
        (
            SHARDS[:3],
            [SHARDS[3], SHARDS[1], EDITED],
            [
                "1 shards removed (train-000000.tar)",
                "1 shards added (train-000003.tar)",
                "1 shards with other bytes (train-000002.tar)",
                "33 samples became 36",
            ],
        ),
    ],
    ids=["nothing", "added", "removed", "edited", "counts", "order", "all at once"],
)
def test_a_change_is_named_in_a_few_lines(before, now, expected):
    assert data_differences(before, now) == expected


def test_shards_of_several_folders_may_share_their_names():
    both = [*SHARDS[:3], *SHARDS[:3]]
    assert data_differences(both, both) == []
    assert data_differences(both, [*SHARDS[:3], *SHARDS[:2], EDITED]) == [
        "1 shards with other bytes (train-000002.tar #2)"
    ]
    assert data_differences(both, both[:5]) == [
        "1 shards removed (train-000002.tar #2)",
        "66 samples became 54",
    ]


def test_the_digest_is_that_of_the_manifest_s_entries(shards):
    split = find_split(shards, "train")
    entries = json.loads((shards / "manifest.json").read_text())["splits"]["train"]
    text = json.dumps(entries, sort_keys=True)
    assert split.digest == hashlib.sha256(text.encode()).hexdigest()
    other = dataclasses.replace(split, shards=split.shards[::-1])
    assert other.digest != split.digest
