"""Row 44: every flipped bit and every cut of a checkpoint is found, and the one before is taken."""

import os
import shutil
from random import Random

from dvae.checkpoint import Checkpoints, State
from tests.test_checkpoint import files_of, trained_parts

FLIPS = int(os.environ.get("DVAE_TEST_FLIPS", "500"))
CUTS = int(os.environ.get("DVAE_TEST_CUTS", "200"))


def test_flips_and_cuts_are_all_found_and_the_one_before_is_taken(tmp_path, record_property):
    checkpoints, parts = Checkpoints(tmp_path, keep=2), files_of(*trained_parts(1))
    older = checkpoints.save(State(step=1), parts)
    newer = checkpoints.save(State(step=2), parts)
    files = sorted(path.name for path in newer.iterdir())
    whole = {name: (newer / name).read_bytes() for name in files}
    draw = Random(0)
    for case in range(FLIPS + CUTS):
        name = files[case % len(files)]
        data = bytearray(whole[name])
        if case < FLIPS:
            place = draw.randrange(len(data))
            data[place] ^= 1 << draw.randrange(8)
        else:
            del data[draw.randrange(len(data)) :]
        (newer / name).write_bytes(data)
        found, passed = checkpoints.newest()
        assert found == older, f"case {case} of {name} was not found"
        assert len(passed) == 1
        assert passed[0].startswith("checkpoint step-00000002 is damaged: ")
        (newer / name).write_bytes(whole[name])
    assert checkpoints.newest() == (newer, [])
    record_property("flips found", FLIPS)
    record_property("cuts found", CUTS)
    shutil.rmtree(older)
