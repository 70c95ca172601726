"""Where data may lie, how that is shown, and how windows of them are announced and fetched."""

import os
import threading
import weakref
from collections import Counter

import numpy as np
import pytest

from dvae.data.ahead import entered
from dvae.data.location import last_part, scheme_of, shown
from dvae.data.mixture import Mixture
from dvae.data.order import Order, Span
from dvae.data.storage import LocalStore, StoreError, open_store
from dvae.data.windows import Windows
from dvae.errors import DataError, UserError


@pytest.mark.parametrize(
    "location",
    [
        "pipe:cat /etc/passwd",
        "-",
        "",
        "ftp://host/data",
        "file:///data",
        "file://host/data",
        "ssh://host/data",
        "a.tar::pipe:id",
        "simplecache::s3://bucket/x",
        "${HOME}/data",
        "data/{0..9999999999}",
        "zip:data.zip",
        "data|id",
        "https:data",
        "s3://",
        "http://",
        "https://host:port/",
    ],
)
def test_locations_that_are_not_read_from_are_refused_with_the_forms_that_are(location):
    with pytest.raises(UserError) as raised:
        open_store(location)
    assert "s3://" in str(raised.value) or "write http" in str(raised.value)


def test_local_folders_are_local_and_urls_have_their_schemes(tmp_path):
    assert isinstance(open_store(str(tmp_path)), LocalStore)
    assert [scheme_of(x) for x in ("data", "./a:b", "/a b/c", "s3://b/x", "https://h")] == [
        *[""] * 3,
        "s3",
        "https",
    ]


@pytest.mark.parametrize(
    ("location", "safe"),
    [
        ("https://user:pass@host/dogs", "https://***@host/dogs"),
        ("https://user@host:80/dogs?X-Sig=abc&e=1", "https://***@host:80/dogs?***"),
        ("https://user:pa/ss@host/dogs", "https://***@host/dogs"),
        ("at https://h/a?k=v and s3://b/c?x=y.", "at https://h/a?*** and s3://b/c?***"),
        ("hf://datasets/me/dogs@main/train", "hf://datasets/me/dogs@main/train"),
        ("/data/a?b@c", "/data/a?b@c"),
    ],
)
def test_secrets_of_urls_are_never_shown(location, safe):
    assert shown(location) == safe
    assert shown(safe) == safe


def test_a_source_is_named_by_its_last_part_without_secrets():
    assert last_part("https://u:p@host/data/dogs/?sig=1") == "dogs"
    assert last_part("/data/dogs/") == "dogs"
    assert last_part("https://u:p@host?sig=1") == "https://***@host?***"


def test_a_local_store_gives_bytes_whole_or_says_why_not(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    store = LocalStore(tmp_path)
    assert store.read("a", 2, 3) == b"234"
    assert store.read_whole("a", 10) == b"0123456789"
    assert store.size("a") == 10
    for wrong in (
        lambda: store.read("a", 8, 3),
        lambda: store.read_whole("a", 9),
        lambda: store.size("b"),
        lambda: store.read("b", 0, 1),
    ):
        with pytest.raises(StoreError):
            wrong()


# The last one's slots come to each of their lanes at every second step.
ORDERS = [
    Order(np.array([100, 37, 0, 250, 13]), 3, 16, 5),
    Order(np.array([7] * 30), 1, 6, 64),
    Mixture("ab", [np.array([90, 30]), np.array([50, 70])], [2.0, 1.0], 0, 12, 4),
    Mixture("ab", [np.array([90, 30]), np.array([50, 70])], [3.0, 1.0], 0, 6, 4),
]
NAMES = ["uneven", "wide", "mixture", "two rounds"]
SLOTS = np.arange(2, 6)


@pytest.mark.parametrize("order", ORDERS, ids=NAMES)
@pytest.mark.parametrize("start", [0, 3, 17])
def test_the_spans_that_slots_enter_hold_what_they_read_each_sample_once(order, start):
    counts = order.counts if isinstance(order, Order) else np.concatenate(order.counts)
    borders = np.cumsum(counts)
    ready: Counter[int] = Counter()
    for step in range(start, start + 3 * order.round_steps + 20):
        spans, drawn = entered(order, start, step, SLOTS)
        for first, count in spans:
            shards = np.searchsorted(borders, [first, first + count - 1], side="right")
            assert shards[0] == shards[1]
            ready.update(set(range(first, first + count)) - drawn)
        for sample in order.draw(step, SLOTS).ids.tolist():
            ready[sample] -= 1
            assert ready[sample] >= 0


@pytest.mark.parametrize("order", ORDERS, ids=NAMES)
def test_from_every_start_all_that_is_fetched_ahead_is_taken_and_nothing_stays_held(order):
    window_steps = order.round_steps * min(order.window, 35)
    for start in range(40):
        windows = Windows(numbers, lambda span: span.samples, limit=10_000)
        for step in range(start, start + 4 + window_steps):
            if step < start + 4:  # what was asked for is all drawn in the steps of a window
                windows.ask(*entered(order, start, step, SLOTS))
            for sample in order.draw(step, SLOTS).ids.tolist():
                assert windows.take(sample) in ([sample] if step < start + 4 else [sample, None])
        assert windows.held == 0


def test_without_a_window_nothing_is_announced():
    assert Order(np.array([100]), 0, 4).entered(0, np.arange(4)) == []


def numbers(span):
    return list(range(span.first, span.first + span.samples))


def test_windows_give_each_sample_as_often_as_it_was_asked_for():
    windows = Windows(numbers, lambda span: span.samples)
    windows.ask([Span(0, 4), Span(8, 2), Span(2, 3)])
    assert [windows.take(sample) for sample in (9, 8, 0, 1, 3, 3, 2, 4, 2)] == [
        *(9, 8, 0, 1, 3, 3, 2, 4, 2)
    ]
    assert [windows.take(sample) for sample in (0, 2, 99)] == [None] * 3


def test_samples_that_nobody_will_take_are_not_fetched_at_the_ends_nor_kept():
    asked = []

    def fetch(span):
        asked.append(span)
        return numbers(span)

    windows = Windows(fetch, lambda span: span.samples)
    windows.ask([Span(0, 6), Span(6, 2)], without={0, 1, 3, 5, 6, 7})
    assert [windows.take(sample) for sample in range(8)] == [None, None, 2, None, 4, *[None] * 3]
    assert asked == [Span(2, 3)]
    assert windows.held == 0


def test_what_is_taken_is_let_go_at_once():
    windows = Windows(lambda span: [np.zeros(1) for _ in numbers(span)], lambda span: span.samples)
    windows.ask([Span(0, 3)])
    item = weakref.ref(windows.take(1))
    assert item() is None
    assert windows.held == 2


def test_windows_hold_no_more_bytes_than_allowed_unless_they_are_wanted_now():
    started, most = [], []

    def fetch(span):
        started.append(span.first)
        most.append(len(started))
        return numbers(span)

    windows = Windows(fetch, lambda span: 10.0, limit=25)
    windows.ask([Span(10 * n, 2) for n in range(10)])
    assert windows.take(90) == 90  # far behind in the queue: fetched by who wants it
    assert windows.take(91) == 91
    for n in range(9):
        assert [windows.take(10 * n), windows.take(10 * n + 1)] == [10 * n, 10 * n + 1]
        assert len(started) <= n + 1 + 1 + 3  # taken, the far one, three that fit
    assert sorted(started) == [10 * n for n in range(10)]


def test_a_mistake_of_the_program_reaches_whoever_takes_a_sample_of_the_window():
    windows = Windows(lambda span: numbers(span.last), lambda span: 1.0)
    windows.ask([Span(first, 2) for first in range(0, 40, 2)])  # more than there are threads
    for sample in range(40):
        with pytest.raises(AttributeError, match="no attribute 'last'"):
            windows.take(sample)


def test_a_window_that_fails_fails_for_all_its_samples_and_dropping_wakes_who_waits():
    def broken(span):
        raise DataError(f"no {span.first}")

    windows = Windows(broken, lambda span: 1.0)
    windows.ask([Span(4, 2)])
    for sample in (4, 5):
        with pytest.raises(DataError, match="no 4"):
            windows.take(sample)

    hold, here = threading.Event(), threading.Event()

    def stuck(span):
        here.set()
        hold.wait(10)
        return numbers(span)

    windows = Windows(stuck, lambda span: 1.0)
    windows.ask([Span(0, 1)])
    assert here.wait(10)
    failures = []

    def wait():
        try:
            assert windows.take(0) is None
        except DataError as error:
            failures.append(str(error))

    waiter = threading.Thread(target=wait)
    waiter.start()
    while waiter.is_alive():
        windows.drop()
        waiter.join(0.01)
    hold.set()
    assert failures in (
        [],
        ["its reading was given up"],
    )  # dropped before it was waited for, or then


def test_a_file_stays_open_while_it_is_read(tmp_path, monkeypatch):
    """Else its descriptor may be another file's by then, and a whole shard seems to be cut short."""
    (tmp_path / "a").write_bytes(b"12345")
    store, pread = LocalStore(tmp_path), os.pread

    def interrupted(descriptor, size, offset):
        store.forget("a")  # as a thread does that opened the same file and puts its own in place
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", interrupted)
    assert store.read("a", 1, 3) == b"234"
