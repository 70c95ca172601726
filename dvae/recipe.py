"""Reads recipes, and tells everything that is wrong with one at once.

A recipe is TOML; the command line overrides it by dotted keys.
"""

import difflib
import json
import math
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

import tomli_w
from pydantic import ValidationError

from dvae.config import Config
from dvae.data.location import shown
from dvae.errors import UserError
from dvae.schema import FREE, Part

Parsed = TypeVar("Parsed", bound=Part)


def load_config(recipe: Path, overrides: list[str] | None = None) -> Config:
    """Read a recipe and apply `key=value` overrides.

    Raises:
        UserError: naming every key that is unknown, missing, of a wrong type or out of range.
    """
    tree = with_overrides(read_toml(recipe), overrides or [])
    run = tree.setdefault("run", {})
    if isinstance(run, dict):
        run["name"] = run.get("name") or recipe.stem
    config = parse_config(tree, str(recipe))
    name = config.run.name
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"run.name={name!r} must be a plain folder name: no /, no leading dot")
    return config


def parse_config(tree: dict[str, Any], source: str) -> Config:
    """A `Config` from nested dictionaries; every mistake at once."""
    return parse_part(Config, tree, source)


def parse_part(kind: type[Parsed], tree: dict[str, Any], source: str) -> Parsed:
    """A part of its kind from nested dictionaries; every mistake at once."""
    try:
        return kind.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: " + "; ".join(_explain(error, kind))) from None


def with_overrides(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The same tables with `key=value` overrides in them."""
    for override in overrides:
        _override(tree, override)
    return tree


def to_toml(config: Config) -> str:
    """The whole recipe, defaults included."""
    return tomli_w.dumps(config.model_dump(mode="json"))


def differences(old: Config, new: Config) -> list[str]:
    """The keys that change the result and differ: `train.seed: 0 in the run, 1 asked for`."""
    lines = []
    old, new = (Config.model_validate(c.model_dump()) for c in (old, new))  # without secrets
    for key, before, after in _compare(old, new):
        longer = key == "train.steps" and new.optim.schedule == "constant"
        if not longer:
            lines.append(f"{key}: {before!r} in the run, {after!r} asked for")
    return lines


def _compare(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted keys and their values that differ; parts are gone into, also where several are listed."""
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(old, Part) and type(old) is type(new):
        fields = type(old).model_fields.items()
        names = [name for name, field in fields if field.json_schema_extra != FREE]
        pairs = [(name, getattr(old, name), getattr(new, name)) for name in names]
    elif _are_parts(old) and _are_parts(new) and len(old) == len(new):
        pairs = [(str(i), *both) for i, both in enumerate(zip(old, new, strict=True))]
    elif old != new:
        return [(key, old, new)]
    return [
        line
        for name, before, after in pairs
        for line in _compare(before, after, f"{key}.{name}".lstrip("."))
    ]


def _are_parts(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(entry, Part) for entry in value)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: it is missing, too large, or no TOML.
    """
    try:
        if path.stat().st_size > 2**20:
            raise UserError(f"{path} is larger than a recipe can be (1 MiB)")
        return tomllib.loads(path.read_text("utf-8-sig"))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"recipe {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None


def _override(tree: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(
            f"{shown(override)!r} is not an override: write key=value, as in train.steps=100"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a string needs no quotes on the command line
    *parents, last = dotted.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise UserError(f"{shown(override)!r}: {name!r} is a value, not a part of the recipe")
    tree[last] = value


def _explain(error: ValidationError, kind: type[Part]) -> list[str]:
    """One line for each key that is wrong."""
    rules: dict[str, list[str]] = {}
    given: dict[str, Any] = {}
    for entry in error.errors():
        key = _key(entry["loc"])
        rules.setdefault(key, []).append(_rule(kind, key, entry["type"], entry["msg"]))
        given[key] = entry.get("input")
    return [_line(key, given[key], found) for key, found in rules.items()]


def _key(location: tuple[int | str, ...]) -> str:
    """The dotted key, without the names that pydantic gives to the members of a union."""
    parts = [str(p) for p in location if not str(p).startswith(("constrained-", "literal["))]
    if parts[:1] == ["model"] and len(parts) > 1:
        parts.pop(1)  # pydantic names the chosen network here
    return ".".join(parts)


def _rule(part: type[Part], key: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        near = _nearest(part, key)
        return "unknown key" + (f", did you mean {near!r}?" if near else "")
    if kind == "missing":
        return f"is missing: set it in the recipe, or with {key}=…"
    return message.removeprefix("Value error, ").replace("Input should", "it should")


def _line(key: str, given: Any, rules: list[str]) -> str:
    value = "" if isinstance(given, dict) else f"={_short(given)}"
    return f"{key}{value}: {' or '.join(rules)}"


def _short(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = shown(json.dumps(value, default=str))
    return text if len(text) <= 60 else text[:57] + "…"


def _nearest(kind: type[Part], key: str) -> str | None:
    prefix, _, last = key.rpartition(".")
    field = kind.model_fields.get(prefix)
    annotation = field.annotation if field else kind
    parts = get_args(annotation) or (annotation,)
    names = [name for part in parts if issubclass(part, Part) for name in part.model_fields]
    close = difflib.get_close_matches(last, names, n=1)
    return f"{prefix}.{close[0]}".lstrip(".") if close else None
