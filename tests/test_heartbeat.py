"""Processes that tell each other what they do, here as threads around a real store."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch import distributed

from dvae.errors import PeerError, ResourceError
from dvae.heartbeat import Heartbeat, is_of_collective

from .conftest import ROOT

BROKEN = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed"
)


@pytest.fixture
def pair(monkeypatch):
    """Two heartbeats that have met."""
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    both = [Heartbeat(rank, 2, timeout=60) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Heartbeat.__enter__, both))
    yield both
    for heartbeat in both:
        heartbeat.stop()


def end_by(heartbeat, error):
    heartbeat.__exit__(type(error), error, None)


def test_an_error_of_one_process_is_told_by_the_others(pair):
    end_by(pair[1], ResourceError("the disk is full"))
    with pytest.raises(PeerError, match=r"rank 1 on .* ended: the disk is full: what was saved is"):
        end_by(pair[0], BROKEN)


HANGS = """
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from torch import distributed
from dvae.heartbeat import Heartbeat

store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port))
both = [Heartbeat(rank, 2, timeout=8) for rank in range(2)]
with ThreadPoolExecutor(2) as pool:
    list(pool.map(Heartbeat.__enter__, both))
for heartbeat in both:
    heartbeat.enter("reading", 6, is_own=True, shard=lambda: "train-000001.tar")
both[0].enter("counting the pictures", 6)
Event().wait()
"""


@pytest.mark.slow
def test_one_that_hangs_is_named_with_its_shard_and_the_process_ends_with_7():
    done = subprocess.run([sys.executable, "-c", HANGS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 7
    told = (
        r"error: rank 1 on .* has been reading train-000001.tar at step 7 for \d+ s, and the others"
    )
    assert re.search(told, done.stderr)


@pytest.mark.slow
def test_one_that_is_gone_without_a_word_is_named(pair):
    pair[0].stop()
    pair[1].enter("in the forward pass", 6, is_own=True)
    with pytest.raises(PeerError, match=r"rank 0 on .* was last heard of \d+ s ago, starting"):
        end_by(pair[1], BROKEN)


def test_a_single_process_tells_nothing_and_keeps_its_errors():
    with pytest.raises(RuntimeError, match="Connection closed"), Heartbeat(0, 1, timeout=60):
        raise BROKEN


def test_errors_of_collectives_are_told_from_others():
    assert is_of_collective(BROKEN)
    assert is_of_collective(distributed.DistNetworkError("the store is gone"))
    assert not is_of_collective(RuntimeError("the shapes differ"))
    assert not is_of_collective(None)
