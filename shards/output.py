"""The folder that shards are packed into: empty, left unfinished by a killed run, or finished.

A run that starts leaves the mark `.packing`, which names its options, and removes it at the very end.
So a folder of tars with neither a mark nor a manifest is somebody's own, and nothing in it is touched.
While shards are appended, the manifest of the finished ones stands.
"""

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from dvae.data.index import missing_shards
from dvae.data.manifest import Shard, read_splits
from dvae.errors import UserError
from dvae.files import MANIFEST, TEMPORARY, write_json

REJECTED = "rejected.jsonl"
MARK = ".packing"
_OURS = re.compile(
    rf"[\w-]+-\d{{6,}}\.(tar|index\.npy)|\.journal-\d{{6,}}\.json|{re.escape(REJECTED)}", re.ASCII
)
_MAY_GROW = {"pictures", "boxes"}  # what --append may differ in


def find_finished(folder: Path) -> dict[str, Any] | None:
    """The `about` of the manifest of a finished run in `folder`, or None.

    Raises:
        UserError: the manifest is damaged or isn't by `shards.pack`, or the folder holds tars that
            aren't ours.
    """
    if not (folder / MANIFEST).exists():
        if not is_unfinished(folder) and any(folder.glob("*.tar")):
            raise UserError(
                f"OUT {str(folder)!r} holds tars that shards.pack did not write: "
                f"give another folder"
            )
        return None
    read_splits(folder)
    about = json.loads((folder / MANIFEST).read_bytes()).get("about", {})
    if not isinstance(about, dict) or not isinstance(about.get("options"), dict):
        raise UserError(
            f"OUT {str(folder)!r} holds shards that shards.pack did not write: give another folder"
        )
    return about


def is_same(folder: Path, about: dict[str, Any], options: dict[str, Any], append: bool) -> bool:
    """Whether the finished run in `folder` was of these pictures too; False: append the others.

    Raises:
        UserError: it had other options, or lost a shard.
    """
    had = about["options"]
    differing = _differing(had, options)
    if differing and not (append and differing <= _MAY_GROW):
        remedy = "--append, or --overwrite" if differing <= _MAY_GROW else "or --overwrite"
        raise _made_otherwise(folder, differing, had, options, remedy)
    problems = [p for split in read_splits(folder).values() for p in missing_shards(split)]
    if problems:
        raise UserError(f"{problems[0]}: restore it, or pack again with --overwrite")
    return not differing


def check_unfinished(folder: Path, options: dict[str, Any]) -> None:
    """Raises `UserError` if an unfinished run in `folder` had other options."""
    try:
        had = json.loads((folder / MARK).read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    differing = _differing(had, options) if isinstance(had, dict) else set()
    if is_unfinished(folder) and differing:
        raise _made_otherwise(folder, differing, had, options, "or --overwrite")


def _differing(had: dict[str, Any], asked: dict[str, Any]) -> set[str]:
    return {key for key in had.keys() | asked.keys() if had.get(key) != asked.get(key)}


def _made_otherwise(
    folder: Path, differing: set[str], had: dict[str, Any], asked: dict[str, Any], remedy: str
) -> UserError:
    pairs = ", ".join(_difference(key, had.get(key), asked.get(key)) for key in sorted(differing))
    return UserError(
        f"OUT {str(folder)!r} already holds shards made otherwise ({pairs}): "
        f"give another folder, {remedy}"
    )


def _difference(key: str, had: Any, asked: Any) -> str:
    if key == "pictures":
        return "the names or sizes of the pictures differ"
    if key == "boxes" and had and asked:
        return "another boxes file"
    return f"{key}: {had if key != 'boxes' else bool(had)}, asked {asked}"


def start(folder: Path, options: dict[str, Any], keep: Collection[str], append: bool) -> None:
    """Mark `folder` as unfinished, and remove what an earlier run of ours left in it.

    Args:
        folder: to pack into.
        options: what determines the shards' bytes.
        keep: the names of files that stay.
        append: the manifest stays too.
    """
    was_ours = is_unfinished(folder) or (folder / MANIFEST).exists()
    write_json(folder / MARK, options)
    if not append:
        (folder / MANIFEST).unlink(missing_ok=True)
    if was_ours:
        _tidy(folder, keep)


def _tidy(folder: Path, keep: Collection[str]) -> None:
    for path in folder.iterdir():
        is_ours = _OURS.fullmatch(path.name) or path.name.startswith(TEMPORARY)
        if is_ours and path.name not in keep and path.is_file():
            path.unlink()


def names_of(shards: Iterable[Shard]) -> set[str]:
    """The names of shards' files."""
    return {name for shard in shards for name in (shard.name, shard.index_name)}


def is_unfinished(folder: Path) -> bool:
    """Whether a run of ours began in `folder` and hasn't written its manifest."""
    return (folder / MARK).exists() and not (folder / MANIFEST).exists()


def finish(folder: Path) -> None:
    """Remove what the run needed; the manifest stands. Does nothing to a folder without a mark."""
    if (folder / MARK).exists():
        shards = [shard for split in read_splits(folder).values() for shard in split.shards]
        _tidy(folder, {REJECTED, *names_of(shards)})
        (folder / MARK).unlink()
