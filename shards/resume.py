"""Download a large file, going on where it was cut, in this run or in a later one.

Beside the file lies NAME.json with its length and what identifies its version at the server (ETag,
else Last-Modified); the server is asked to go on (Range) only if that's still the same (If-Range).
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import urllib3
from tqdm import tqdm

from dvae.errors import UserError
from dvae.files import flush, write_json
from shards.http import pool
from shards.progress import progress

_CHUNK = 1 << 20  # bytes
_PATIENCE = 3  # answers in a row that bring nothing new


def download(url: str, path: Path) -> None:
    """Bring a URL's bytes into a file; what the file holds already is kept if it's of the same version.

    Raises:
        UserError: the server refuses, or brings no more bytes.
        OSError: the file can't be written.
    """
    idle, cause = 0, ""
    with progress(path.name, sys.stderr, "B") as bar:
        while idle < _PATIENCE:
            before = _size(path)
            try:
                _go_on(url, path, bar)
                _notes_of(path).unlink(missing_ok=True)
                return
            except urllib3.exceptions.HTTPError as error:
                cause = type(error).__name__
            idle = 0 if _size(path) > before else idle + 1
    raise UserError(
        f"{url} brings no more bytes after {_size(path)} ({cause}): run this again, it goes on there"
    )


def _go_on(url: str, path: Path, bar: "tqdm[Any]") -> None:
    """One request for what is missing; returns when nothing is."""
    notes, start = _read_notes(path), _size(path)
    if notes and start == notes["bytes"]:
        return
    headers = dict(pool().headers)
    if notes and start:
        headers |= {"Range": f"bytes={start}-", "If-Range": notes["version"]}
    answer = pool().request("GET", url, headers=headers, preload_content=False)
    try:
        if answer.status == 206 and notes:
            _check_range(answer.headers.get("Content-Range", ""), start, notes["bytes"], url)
        elif answer.status == 200:
            start = 0
            _write_notes(path, answer.headers)
        else:
            raise UserError(f"{url} answers with status {answer.status}: try again later")
        bar.total = start + int(answer.headers.get("Content-Length", 0)) or None
        bar.update(start - bar.n)
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            for part in answer.stream(_CHUNK, decode_content=False):
                file.write(part)
                bar.update(len(part))
            flush(file)
    finally:
        answer.close()


def _check_range(said: str, start: int, total: int, url: str) -> None:
    if said != f"bytes {start}-{total - 1}/{total}":
        raise UserError(f"{url} gave {said!r}, asked for byte {start} to the end: try again later")


def _notes_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_notes(path: Path) -> dict[str, Any]:
    """{"version": …, "bytes": …} of what is in the file, or {} if that can't be gone on with."""
    try:
        notes = json.loads(_notes_of(path).read_bytes())
        return {"version": str(notes["version"]), "bytes": int(notes["bytes"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _write_notes(path: Path, headers: Any) -> None:
    """Before the first byte of a version is written; a version without a name is never gone on with."""
    version = headers.get("ETag", "")
    if version.startswith("W/") or not version:
        version = headers.get("Last-Modified", "")
    path.unlink(missing_ok=True)
    _notes_of(path).unlink(missing_ok=True)
    size = headers.get("Content-Length", "")
    if version and re.fullmatch(r"\d{1,18}", size):
        write_json(_notes_of(path), {"version": version, "bytes": int(size)})


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
