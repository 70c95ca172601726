"""The folder that shards are packed into: empty, left unfinished by a killed run, or finished.

A run that starts leaves the mark `.packing` and removes it when the manifest stands. So a folder of
tars with neither a mark nor a manifest is somebody's own, and nothing in it is touched.
"""

import json
import re
from pathlib import Path
from typing import Any

from dvae.data.index import missing_shards, read_splits
from dvae.errors import UserError
from dvae.files import MANIFEST, TEMPORARY, write_bytes

REJECTED = "rejected.jsonl"
_MARK = ".packing"
_OURS = re.compile(rf"[\w-]+-\d{{6,}}\.(tar|index\.npy)|{re.escape(REJECTED)}", re.ASCII)


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


def check_same(folder: Path, about: dict[str, Any], options: dict[str, Any]) -> None:
    """Raises `UserError` if the finished run in `folder` had other options, or lost a shard."""
    had = about["options"]
    keys = sorted(had.keys() | options.keys())
    differing = [key for key in keys if had.get(key) != options.get(key)]
    if differing:
        pairs = ", ".join(_difference(key, had.get(key), options.get(key)) for key in differing)
        raise UserError(
            f"OUT {str(folder)!r} already holds shards made otherwise ({pairs}): "
            f"give another folder, or --overwrite"
        )
    problems = [p for split in read_splits(folder).values() for p in missing_shards(split)]
    if problems:
        raise UserError(f"{problems[0]}: restore it, or pack again with --overwrite")


def _difference(key: str, had: Any, asked: Any) -> str:
    if key == "pictures":
        return "the names or sizes of the pictures differ"
    if key == "boxes" and had and asked:
        return "another boxes file"
    return f"{key}: {had if key != 'boxes' else bool(had)}, asked {asked}"


def start(folder: Path) -> None:
    """Mark `folder` as unfinished, and remove what an earlier run of ours left in it."""
    was_ours = is_unfinished(folder) or (folder / MANIFEST).exists()
    write_bytes(folder / _MARK, b"")
    (folder / MANIFEST).unlink(missing_ok=True)
    if not was_ours:
        return
    for path in folder.iterdir():
        if path.is_file() and (_OURS.fullmatch(path.name) or path.name.startswith(TEMPORARY)):
            path.unlink()


def is_unfinished(folder: Path) -> bool:
    """Whether a run of ours began in `folder` and hasn't written its manifest."""
    return (folder / _MARK).exists() and not (folder / MANIFEST).exists()


def finish(folder: Path) -> None:
    """Remove the mark; the manifest stands."""
    (folder / _MARK).unlink(missing_ok=True)
