"""JSON read in pieces is what json.loads reads at once, wherever it's cut, and refused where that is."""

import json
from itertools import chain

import numpy as np
import pytest

from dvae.data.json_pieces import JsonPieces

SHARDS = [{"name": f"a-{i}.tar", "n": i, "x": 'tail"},{', "é": [i, {}]} for i in range(30)]
DOCUMENTS = [
    {
        "splits": {"train": SHARDS, "val": SHARDS[:1], "none": []},
        "about": {"deep": [[1], {"a": 2.5e3}]},
    },
    {"splits": {"train": [{"n": i} for i in range(500)], "val": [{"n": 1}] * 40}},
    {"about": "ends }, and ] in a text, ☃", "splits": {"odd": [1, "},", None, [], {"k": {}}, -12]}},
    {"splits": {"floats": [2.5, -3e-07, 1e22, {"k": 0.25}, 1.5e-09]}, "about": 4.75},
    {"splits": {}, "about": None},
    {},
]


def walked(pieces):
    """A document whose splits are walked through, element by element."""
    document = JsonPieces(pieces)
    value = {}
    for key in document.members():
        if key == "splits":
            value[key] = {name: list(chain(*document.chunks())) for name in document.members()}
        else:
            value[key] = document.value()
    document.end()
    return value


def cut(data, rng):
    """The bytes in pieces of drawn lengths, some of them empty."""
    places = np.sort(rng.integers(0, len(data) + 1, rng.integers(0, 9))).tolist()
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_pieces_give_what_the_whole_gives(document):
    rng = np.random.default_rng(0)
    compact = {"ensure_ascii": False, "separators": (",", ":")}
    for form in ({}, {"indent": 1}, {"separators": (" , ", " : ")}, compact):
        data = json.dumps(document, **form).encode()
        for _ in range(25):
            assert walked(cut(data, rng)) == document
    assert walked(data[i : i + 1] for i in range(len(data))) == document


class Searched(str):
    """A text that counts the characters that are searched for an object's end."""

    characters = 0

    def rfind(self, what, start, *end):
        Searched.characters += (len(self) - start) * (what == "},")
        return super().rfind(what, start, *end)


class Watched(JsonPieces):
    def _more(self, least):
        has_come = super()._more(least)
        self._text = Searched(self._text)
        return has_come


@pytest.mark.parametrize("separator", [",", " ,"])
def test_each_piece_is_searched_for_the_ends_of_objects_a_few_times_only(separator, monkeypatch):
    monkeypatch.setattr(Searched, "characters", 0)
    shards = [{"name": f"a-{i}.tar", "n": i} for i in range(500)]
    data = f"[{separator.join(map(json.dumps, shards))}]".encode()
    pieces = [data[i : i + 5000] for i in range(0, len(data), 5000)]
    assert list(chain(*Watched(pieces).chunks())) == shards
    assert 0 < Searched.characters < 3 * len(data)


def test_what_is_not_json_is_refused_as_the_whole_is():
    rng = np.random.default_rng(1)
    data = json.dumps(
        {"splits": {"a": [{"n": 1, "s": "é"}, {"n": 2}]}, "about": [1, "x"]}, indent=1
    ).encode()
    refused = 0
    for _ in range(600):
        spoiled = bytearray(data)
        spoiled[rng.integers(len(data))] = rng.choice(list(b'{}[]",: 0x\xff\\'))
        spoiled = bytes(spoiled[: rng.integers(len(data)) if rng.random() < 0.3 else None])
        try:
            expected = json.loads(spoiled.decode())
        except ValueError:
            refused += 1
            with pytest.raises((ValueError, TypeError)):
                walked(cut(spoiled, rng))
            continue
        try:
            assert walked(cut(spoiled, rng)) == expected
        except TypeError:  # splits that are no lists
            assert not all(isinstance(x, list) for x in dict(expected.get("splits", {})).values())
    assert 100 < refused < 600


def test_another_kind_of_value_is_told_from_what_is_not_json():
    for data in (b"[]", b'"text"', b" 12 ", b"null"):
        with pytest.raises(TypeError):
            walked([data])
    for data in (b"", b"{", b"[", b"nonsense", b"{} {}", b'{"a": 1,}', b"{1: 2}"):
        with pytest.raises(ValueError):
            walked([data])
