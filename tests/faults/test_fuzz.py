"""The fuzzer finds nothing: no crash, hang, memory, partial or mixed sample, no loss unaccounted for."""

import pytest

from tests.faults.fuzz_shards import KINDS, fuzz, table


def test_a_damaged_copy_of_each_kind_is_read_or_refused():
    assert fuzz(4 * len(KINDS)).total() == 4 * len(KINDS)


@pytest.mark.slow
def test_2000_damaged_copies_are_read_or_refused():
    outcomes = fuzz(2000, first=4 * len(KINDS))
    print(table(outcomes))
    assert outcomes.total() == 2000
