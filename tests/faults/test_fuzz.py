"""The fuzzer finds nothing: no crash, hang, memory, partial or mixed sample, no loss unaccounted for."""

import os

import pytest

from tests.faults.fuzz_shards import KINDS, fuzz, table

COPIES = int(os.environ.get("DVAE_TEST_COPIES", "2000"))


def test_a_damaged_copy_of_each_kind_is_read_or_refused():
    assert fuzz(4 * len(KINDS)).total() == 4 * len(KINDS)


@pytest.mark.slow
def test_very_many_damaged_copies_are_read_or_refused(record_property):
    outcomes = fuzz(COPIES, first=4 * len(KINDS))
    print(table(outcomes))
    assert outcomes.total() == COPIES
    record_property("damaged shards, each read with its index and anew", COPIES)
