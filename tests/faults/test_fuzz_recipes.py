"""Row 55: a recipe that is damaged in any way is one message and exit code 2, never a traceback."""

import contextlib
import io
import os
import tomllib
from collections import Counter
from random import Random

import tomli_w

from dvae.plan import main as plan

CASES = int(os.environ.get("DVAE_TEST_RECIPES", "500"))
ODD = (
    *(None, True, -1, 0, 0.5, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), -0.0),
    *("", "x" * 10_000, "nan", "1e-4", "no", "!!python/object/apply:os.system [id]", "${HOME}"),
    *([], {}, [[]] * 50, ["a", 1], {"a": {"b": {}}}, "\u202e", "a\nb"),
)


def other_value(tree, draw):
    """A value becomes one of another kind or size."""
    part = draw.choice([value for value in tree.values() if value])
    part[draw.choice(list(part))] = draw.choice(ODD)


def typo(tree, draw):
    """A key is misspelt."""
    part = draw.choice([value for value in tree.values() if value])
    key = draw.choice(list(part))
    place = draw.randrange(len(key))
    part[key[:place] + draw.choice("abcxyz_é ") + key[place + draw.randrange(2) :]] = part.pop(key)


def lost(tree, draw):
    """A key or a whole part is missing, or stands in another part."""
    name = draw.choice(list(tree))
    if draw.random() < 0.3:
        del tree[name]
        return
    key = draw.choice(list(tree[name]))
    value = tree[name].pop(key)
    if draw.random() < 0.5:
        draw.choice(list(tree.values()))[key] = value


def another_part(tree, draw):
    """A part is a value, a list, or one that doesn't exist."""
    tree[draw.choice([*tree, "trian", "", "a.b"])] = draw.choice(ODD)


def bytes_of(text, draw):
    """The file's bytes are cut, flipped, doubled, or begin with a mark."""
    data = bytearray(text.encode())
    way = draw.randrange(5)
    if way == 0:
        del data[draw.randrange(len(data)) :]
    elif way == 1:
        for _ in range(draw.choice((1, 1, 3, 20))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif way == 2:
        data += data[draw.randrange(len(data)) :]
    elif way == 3:
        data = bytearray(draw.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0"))) + data
    else:
        data[draw.randrange(len(data)) :] = draw.randbytes(draw.randrange(200))
    return bytes(data)


def mutated(text, case):
    draw = Random(case)
    tree = tomllib.loads(text)
    kinds = (other_value, typo, lost, another_part)
    kind = kinds[case % 5] if case % 5 < len(kinds) else None
    if kind is None:
        return "bytes", bytes_of(text, draw)
    for _ in range(draw.choice((1, 1, 2, 3))):
        with contextlib.suppress(AttributeError, IndexError, KeyError, TypeError):
            kind(tree, draw)  # a part may be gone, or no part any more
    try:
        return kind.__name__, tomli_w.dumps(tree).encode()
    except (TypeError, ValueError):
        return kind.__name__, repr(tree).encode()  # no TOML at all


def test_damaged_recipes_are_one_message_each(recipe, record_property):
    text = recipe.read_text()
    codes = Counter()
    for case in range(CASES):
        kind, data = mutated(text, case)
        recipe.write_bytes(data)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = plan([str(recipe)])
        told = err.getvalue()
        codes[kind, code] += 1
        assert code in (0, 2), f"case {case}: {code} {told}"
        if code:
            assert told.startswith("error: "), f"case {case}: {told}"
            assert told.count("\n") == 1, f"case {case}: {told}"
            assert len(told) < 3000, f"case {case}: {len(told)} letters"
    refused = sum(times for (_, code), times in codes.items() if code == 2)
    record_property("damaged recipes", CASES)
    record_property("of them refused in one message", refused)
    assert refused >= 0.7 * CASES  # some changes are allowed: another seed, another name
