"""The folder that shards are packed into: empty, left unfinished by a killed run, or finished.

A run that starts leaves the mark `.packing`, which names its options, and removes it at the very end.
So a folder of tars with neither a mark nor a manifest is somebody's own, and nothing in it is touched.
While shards are appended, the manifest of the finished ones stands.
"""

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from dvae.data.index import missing_shards
from dvae.data.manifest import MAX_MANIFEST, Shard, read_splits
from dvae.data.storage import Location, StoreError, open_store
from dvae.errors import UserError
from dvae.files import MANIFEST, TEMPORARY, write_json
from shards.place import Place

REJECTED = "rejected.jsonl"
MARK = ".packing"
_OURS = re.compile(
    rf"[\w-]+-\d{{6,}}\.(tar|index\.npy)|\.journal-\d{{6,}}\.json|{re.escape(REJECTED)}", re.ASCII
)
_MAY_GROW = {"pictures", "files", "boxes"}  # what --append may differ in


def find_finished(place: Place) -> dict[str, Any] | None:
    """The `about` of the manifest of a finished run in `place`, or None.

    Raises:
        UserError: the manifest is damaged or isn't by `shards.pack`, or the folder holds tars that
            aren't ours.
    """
    if not place.has(MANIFEST):
        if not place.has(MARK) and any(name.endswith(".tar") for name in place.names()):
            raise UserError(
                f"OUT {place.shown!r} holds tars that shards.pack did not write: "
                f"give another folder"
            )
        return None
    read_splits(place.store)
    about = json.loads(place.store.read_whole(MANIFEST, MAX_MANIFEST)).get("about", {})
    if not isinstance(about, dict) or not isinstance(about.get("options"), dict):
        raise UserError(
            f"OUT {place.shown!r} holds shards that shards.pack did not write: give another folder"
        )
    return about


def is_same(place: Place, about: dict[str, Any], options: dict[str, Any], append: bool) -> bool:
    """Whether the finished run in `place` was of these pictures too; False: append the others.

    Raises:
        UserError: it had other options, or lost a shard.
    """
    had = about["options"]
    differing = _differing(had, options)
    if differing and not (append and differing <= _MAY_GROW):
        remedy = "--append, or --overwrite" if differing <= _MAY_GROW else "or --overwrite"
        raise _made_otherwise(place, differing, had, options, remedy)
    problems = [p for split in read_splits(place.store).values() for p in missing_shards(split)]
    if problems:
        raise UserError(f"{problems[0]}: restore it, or pack again with --overwrite")
    return not differing


def check_unfinished(place: Place, options: dict[str, Any]) -> None:
    """Raises `UserError` if an unfinished run in `place`, without a manifest, had other options."""
    try:
        had = json.loads(place.store.read_whole(MARK, MAX_MANIFEST))
    except (StoreError, ValueError, RecursionError):
        return
    differing = _differing(had, options) if isinstance(had, dict) else set()
    if differing:
        raise _made_otherwise(place, differing, had, options, "or --overwrite")


def _differing(had: dict[str, Any], asked: dict[str, Any]) -> set[str]:
    keys = had.keys() | asked.keys()
    if "files" not in had:  # older versions didn't look at them
        keys -= {"files"}
    return {key for key in keys if had.get(key) != asked.get(key)}


def _made_otherwise(
    place: Place, differing: set[str], had: dict[str, Any], asked: dict[str, Any], remedy: str
) -> UserError:
    pairs = ", ".join(_difference(key, had.get(key), asked.get(key)) for key in sorted(differing))
    return UserError(
        f"OUT {place.shown!r} already holds shards made otherwise ({pairs}): "
        f"give another folder, {remedy}"
    )


def _difference(key: str, had: Any, asked: Any) -> str:
    if key == "pictures":
        return "the names or sizes of the pictures differ"
    if key == "files":
        return "the files that hold the pictures differ"
    if key == "boxes" and had and asked:
        return "another boxes file"
    return f"{key}: {had if key != 'boxes' else bool(had)}, asked {asked}"


def start(place: Place, options: dict[str, Any], keep: Collection[str], append: bool) -> None:
    """Mark `place` as unfinished, and remove what an earlier run of ours left in it.

    Args:
        place: to pack into.
        options: what determines the shards' bytes.
        keep: the names of files that stay.
        append: the manifest stays too.
    """
    was_ours = place.has(MARK) or place.has(MANIFEST)
    write_json(place.folder / MARK, options)
    place.publish(MARK, keep=True)
    if not append:
        place.remove(MANIFEST)
    if was_ours:
        _tidy(place, keep)


def _tidy(place: Place, keep: Collection[str]) -> None:
    for where in (place, Place(place.folder)) if place.url else (place,):
        for name in where.names():
            is_ours = _OURS.fullmatch(name) or name.startswith(TEMPORARY)
            if is_ours and name not in keep:
                where.remove(name)


def names_of(shards: Iterable[Shard]) -> set[str]:
    """The names of shards' files."""
    return {name for shard in shards for name in (shard.name, shard.index_name)}


def half_made(location: Location) -> str:
    """What a run that works in a folder of ours, or was killed there, leaves to do; "" if nothing."""
    store = open_store(location)
    try:
        mark = json.loads(store.read_whole(MARK, MAX_MANIFEST))
    except (StoreError, ValueError, RecursionError):  # or a server that gives a page for any name
        return ""
    try:
        about = json.loads(store.read_whole(MANIFEST, MAX_MANIFEST))["about"]
        if about["options"] == mark:
            return ""  # only the mark is left
    except StoreError:
        return f"{store.shown!r} is half packed: run its python -m shards.pack again"
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return (
        f"{store.shown!r} is half appended: run its python -m shards.pack --append again, unless it is "
        f"still at work"
    )


def finish(place: Place) -> None:
    """Bring the manifest to where it belongs, last, and remove what the run needed.

    Does nothing to a folder without a mark.
    """
    if not (place.folder / MARK).exists():
        return
    if place.url and (place.folder / MANIFEST).exists():
        place.publish(REJECTED, MANIFEST)
    shards = [shard for split in read_splits(place.store).values() for shard in split.shards]
    _tidy(place, {REJECTED, *names_of(shards)})
    if place.url:
        place.remove(MARK)
    (place.folder / MARK).unlink()
