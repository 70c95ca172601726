"""Who is named as the one that the others wait for."""

import pytest

from dvae.verdict import PARTS, Beat, Pace, culprit

READING = Beat("near", phases=7, step=3, phase="reading", shard="train-000001.tar", seconds=30)
WAITING = Beat("far", phases=8, step=3, phase="counting the pictures", seconds=29)


def heard(beats, **ago):
    return {rank: ago.get(f"r{rank}", 0.5) for rank in beats}


def test_one_that_hangs_is_behind_the_others_and_is_named_with_its_shard():
    beats = {0: WAITING, 1: READING, 2: WAITING}
    told = culprit(beats, heard(beats), can_hear=True)
    assert told.startswith("rank 1 on near has been reading train-000001.tar at step 4 for 30 s")


def test_one_that_is_silent_is_named_before_one_that_is_behind():
    beats = {0: READING, 1: WAITING}
    told = culprit(beats, heard(beats, r1=9.0), can_hear=True)
    assert told == "rank 1 on far was last heard of 9 s ago, counting the pictures at step 4"


def test_where_the_store_does_not_answer_its_machine_is_lost():
    beats = {0: WAITING, 1: READING}
    told = culprit(beats, heard(beats, r0=9.0, r1=9.0), can_hear=False)
    assert told.startswith("rank 0 on far is out of reach, and was last heard of 9 s ago")


def test_where_all_live_and_are_at_the_same_place_nobody_is_blamed():
    beats = {0: WAITING, 1: WAITING}
    assert culprit(beats, heard(beats), can_hear=True).startswith("all processes live")


def test_of_many_the_first_ones_are_named():
    beats = {rank: READING if rank > 3 else WAITING for rank in range(12)}
    told = culprit(beats, heard(beats), can_hear=True)
    assert told.startswith("rank 4 on near, rank 5 on near, rank 6 on near and 5 more has been")


def verdicts(pace, shares):
    """What is said after each part of the time, in which each rank worked for its share."""
    busy, said = [0.0] * len(shares[0]), []
    for part, row in enumerate(shares, start=1):
        busy = [b + share for b, share in zip(busy, row, strict=True)]
        beats = {rank: Beat("here", phases=9, busy=b) for rank, b in enumerate(busy)}
        said.append(pace.verdict(beats, float(part)))
    return said


def test_one_that_is_slow_for_half_of_the_timeout_is_named():
    said = verdicts(Pace(PARTS, 5), [(0.05, 0.5, 0.05)] * 6)
    assert said[:4] == [""] * 4  # the first part only begins the count
    assert said[4].startswith("rank 1 on here has been slow for 4 s")


def test_one_that_is_slow_is_named_though_a_part_looks_quick():
    """A phase is counted in the part in which it ends."""
    said = verdicts(Pace(PARTS, 5), [(0.05, 0.7), (0.05, 0.6), (0.05, 0.0), (0.05, 0.5)] * 2)
    assert said[4].startswith("rank 1 on here has been slow for 4 s: it spent 1.8 of them on")


@pytest.mark.parametrize(
    ("factor", "shares"),
    [
        (5, [(0.1, 0.4)] * 20),  # not by far
        (5, [(0.001, 0.05)] * 20),  # nobody waits for it
        (5, [(0.0, 0.0), *[(0.1, 0.1)] * 3, (0.1, 9.0), *[(0.1, 0.1)] * 9]),  # one long read
        (5, [(0.1, 0.6), (0.6, 0.1)] * 9),  # not always the same
        (0, [(0.0, 1.0)] * 20),  # not asked for
    ],
    ids=["a bit", "a trifle", "once", "by turns", "never"],
)
def test_others_are_not(factor, shares):
    assert not any(verdicts(Pace(PARTS, factor), shares))
