"""Shards behind http: every sample comes right or is named, whatever the server does."""

import dataclasses
import time

import numpy as np
import pytest

from dvae.data.ahead import training_ahead
from dvae.data.batches import Loader, Pictures
from dvae.data.http import HttpStore
from dvae.data.manifest import find_split, read_splits
from dvae.data.order import Order
from dvae.data.patience import Patience
from dvae.data.reader import Reader
from dvae.data.storage import StoreError
from dvae.errors import DataError, UserError
from tests.fault_server import FAULTS, STAYING, serving
from tests.faults.shard_files import SIZE, make_shards

HASTY = Patience(total=8, connect=4, silence=0.1, first_pause=0.002, longest_pause=0.01)
SLOW = "1 KB/s"
SECRETS = ("hushhush", "s1gnature")
BATCH, WINDOW = 4, 4
WHOLE_SHARDS = 24  # of an order whose windows are whole shards: nine seconds each at 1 KB/s


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """32 samples in 8 shards."""
    return make_shards(tmp_path_factory.mktemp("served") / "data", shards=8)


@pytest.fixture(autouse=True)
def _short_sight(monkeypatch):
    """An epoch has 8 steps; 64 of them would be fetched ahead."""
    monkeypatch.setattr("dvae.data.ahead.TRAINING_STEPS", 4)


def store_of(server, patience=HASTY, credentials=True):
    if not credentials:
        return HttpStore(f"{server.url}/data", patience)
    address = server.url.removeprefix("http://")
    return HttpStore(f"http://dog:{SECRETS[0]}@{address}/data?sig={SECRETS[1]}", patience)


def epoch(reader, plan, steps, ahead=4):
    """What some steps deliver, by sample id: the decoded picture; and the bad samples."""
    delivered, bad = {}, {}
    with Loader(plan, Pictures(reader, SIZE), threads=2, ahead=ahead) as loader:
        for _ in range(steps):
            batch = next(loader)
            for sample, image, weight in zip(batch.ids, batch.images, batch.weights, strict=True):
                if weight:
                    delivered[int(sample)] = image.numpy()
            bad |= {entry.sample: entry for entry in batch.bad}
    return delivered, bad


def one_epoch(reader, seed=0):
    order = Order(np.concatenate([s.counts for s in reader.splits]), seed, BATCH, WINDOW)
    return epoch(reader, training_ahead(reader, order, 0, 0, 1), order.steps_per_epoch)


@pytest.fixture(scope="module")
def truth(folder):
    delivered, bad = one_epoch(Reader(find_split(folder, "train")))
    assert len(delivered) == 32
    assert not bad
    return delivered


def patience_for(fault, server):
    """Where it runs out, so long that this machine, as busy as it is, does all the rest meanwhile."""
    if fault != SLOW:
        return HASTY
    started = time.monotonic()
    one_epoch(Reader(find_split(store_of(server), "train")), WHOLE_SHARDS)
    lasted = time.monotonic() - started
    return dataclasses.replace(HASTY, total=min(max(0.3, 2 * lasted), 8))


def survives(folder, truth, fault, seed):
    with serving(folder, fault, seed) as server:
        patience = patience_for(fault, server)
        reader = Reader(find_split(store_of(server, patience), "train"))
        server.is_armed = True
        started = time.monotonic()
        delivered, bad = one_epoch(reader, WHOLE_SHARDS if fault == SLOW else 0)
        lasted = time.monotonic() - started
    assert sorted(delivered.keys() | bad.keys()) == list(range(32))
    assert len(delivered) + len(bad) == 32
    for sample, image in delivered.items():
        assert np.array_equal(image, truth[sample])
    number = int(server.victim[6:12])
    lost = range(4 * number, 4 * number + 4) if fault in STAYING else ()
    assert sorted(bad) == list(lost)
    # Two windows of the victim, of this epoch and the next, may run out one after another.
    assert lasted < (3 * patience.total if fault == SLOW else HASTY.total)
    texts = [str(entry) for entry in bad.values()]
    assert not any(secret in text for secret in SECRETS for text in texts)
    assert all(SECRETS[1] in path and authorization for path, authorization in server.seen)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_sample_comes_right_or_is_named_whatever_the_server_does(
    folder, truth, fault, capfd, caplog
):
    for seed in range(2):
        survives(folder, truth, fault, seed)
    told = "".join(capfd.readouterr()) + caplog.text
    assert not any(secret in told for secret in SECRETS)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_twenty_seeds_of_every_fault(folder, truth, fault, capfd, caplog, record_property):
    for seed in range(20):
        survives(folder, truth, fault, seed)
    record_property("faults x seeds", 20)
    told = "".join(capfd.readouterr()) + caplog.text
    assert not any(secret in told for secret in SECRETS)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("404", "it is not there"),
        ("403", "access is refused"),
        ("redirect loop", "redirects"),
    ],
)
def test_a_shard_that_cannot_be_had_ends_the_run_at_its_start_with_the_reason(
    folder, fault, reason
):
    with serving(folder, fault) as server:
        server.is_armed = True
        with pytest.raises(DataError, match=rf"1 files of 8 .*{server.victim}.*{reason}") as raised:
            Reader(find_split(store_of(server), "train"))
        assert len([path for path, _ in server.seen if server.victim in path]) < 8  # no long trying
    assert not any(secret in str(raised.value) for secret in SECRETS)


def test_a_folder_that_is_not_there_or_no_server_is_an_error_with_the_reason(folder):
    with serving(folder.parent) as server:
        with pytest.raises(StoreError, match=r"manifest.json\?\*\*\*: it is not there \(404\)"):
            read_splits(store_of(server))
        store = store_of(server)
    with pytest.raises(StoreError, match="no connection"):
        read_splits(store)


def test_a_server_that_ignores_ranges_is_not_asked_to_skip_far(folder, monkeypatch):
    monkeypatch.setattr("dvae.data.answers.MAX_SKIP", 1000)
    refused = pytest.raises(StoreError, match="ignores Range, and byte 1001 is too far")
    with serving(folder, "Range ignored") as server, refused:
        store_of(server).read("train-000000.tar", 1001, 10)


def test_a_picture_damaged_on_its_way_is_asked_for_once_more(folder, truth, tmp_path):
    copy = make_shards(tmp_path / "data", shards=8)
    with serving(copy) as server:
        reader = Reader(find_split(store_of(server), "train"))
        path = copy / "train-000002.tar"
        whole = path.read_bytes()
        bent = bytearray(whole)
        bent[reader.place(8).offset + 700] ^= 1
        path.write_bytes(bent)
        reader.windows.ask(reader.runs(np.arange(8, 12)))
        for run in reader.windows._runs.values():  # it's on its way, bent
            run[0].done.wait()
        path.write_bytes(whole)
        assert len(reader.picture(8).data) > 0


def test_credentials_come_from_netrc_where_the_url_has_none(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login dog password bone\n")
    (tmp_path / ".netrc").chmod(0o600)
    with serving(folder) as server:
        read_splits(store_of(server, credentials=False))
        assert {authorization for _, authorization in server.seen} == {"Basic ZG9nOmJvbmU="}
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 sesame\n")
        with pytest.raises(UserError, match="netrc can't be parsed") as raised:
            store_of(server, credentials=False)
    assert "sesame" not in str(raised.value)


def test_credentials_do_not_follow_a_redirect_to_another_host(folder):
    with serving(folder) as other, serving(folder, "redirect loop") as server:
        server.is_armed = True
        store = store_of(server)
        target = f"{other.url}/data/{server.victim}"
        server.RequestHandlerClass = type(
            "Elsewhere",
            (server.RequestHandlerClass,),
            {"fail": lambda self, *_: self.answer(302, b"", {"Location": target})},
        )
        assert len(store.read(server.victim, 512, 100)) == 100
        assert [authorization for _, authorization in other.seen] == [None]
        assert all(authorization for _, authorization in server.seen)
