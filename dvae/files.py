"""Whole files: what has its final name is complete, flushed to disk, and named in a manifest.

Write under a temporary name in the same folder, flush, rename (design contract 3).
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dvae.errors import FULL, UserError
from dvae.failpoint import failpoint

MANIFEST = "manifest.json"
_BUFFER = 1 << 18  # bytes; thousands of small writes make one
TEMPORARY = ".tmp-"  # what starts with this is unfinished and may be deleted


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` only when the block ends without an error."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb", buffering=_BUFFER) as file:
            failpoint("opened")
            yield file
            failpoint("written")
            flush(file)
        failpoint("flushed")
        temporary.replace(path)
        failpoint("renamed")
    except OSError as error:
        if error.errno in FULL:  # a failed write doesn't say of what
            error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file."""
    with whole_file(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file, the same bytes for the same value."""
    pieces = json.JSONEncoder(indent=1, sort_keys=True).iterencode(value)
    with whole_file(path) as file:  # at once, a million values would take 130 MB
        file.writelines(piece.encode() for piece in pieces)
        file.write(b"\n")


def append(path: Path, data: bytes) -> None:
    """Append to a file at once, so that what several processes add doesn't mix.

    Raises:
        OSError: it can't be written, or is a symbolic link, which might lead anywhere.
    """
    with open(path, "ab", buffering=0, opener=_not_through_a_link) as file:
        file.write(data)


def keep_lines(path: Path, is_kept: Callable[[Any], bool]) -> None:
    """Rewrite a list of JSON lines with some of them; what was cut short goes, too."""

    def kept(line: bytes) -> bool:
        try:
            return line.endswith(b"\n") and is_kept(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError):
            return False

    if path.is_file() and not path.is_symlink():  # `append` refuses a link
        with path.open("rb") as old, whole_file(path) as new:
            new.writelines(filter(kept, old))


def _not_through_a_link(path: str | Path, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def flush(file: BinaryIO) -> None:
    """Force an open file's bytes to the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Force a folder's names to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """Name every file of a folder with its size and SHA-256; the last file to be written."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != MANIFEST)
    files = {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256(folder / n)} for n in names}
    write_json(folder / MANIFEST, {"files": files})


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that has a manifest of `write_manifest`, or None."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        expected = {str(n): (int(f["bytes"]), str(f["sha256"])) for n, f in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is missing or unreadable"
    for name, (size, digest) in expected.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if sha256(path) != digest:
            return f"{name} does not have the SHA-256 that {MANIFEST} names"
    return None


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under `path`, with a manifest, only when the block ends well.

    An older folder of that name is moved aside for the instant of the renaming, so that what is found
    under `path` is the old one, the new one or, for that instant, nothing.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    old = path.with_name(f"{TEMPORARY}old-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        failpoint("folder flushed")
        write_manifest(temporary)
        failpoint("folder written")
        if path.exists():
            _remove(old)
            path.rename(old)
            failpoint("folder aside")
        temporary.rename(path)
        failpoint("folder renamed")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    flush_folder(path.parent)
    _remove(old)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left in a folder that this process holds."""
    for path in folder.glob(f"{TEMPORARY}*"):
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a folder, or a link to one but nothing that it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock dies with its holder.

    Raises:
        UserError: another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _not_through_a_link(folder / ".lock", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): choose another folder"
        ) from None
    with os.fdopen(lock, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{folder} is in use by {holder}: wait for it to end, or choose another folder"
            ) from None
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}")
        file.flush()
        yield


def holder_of(folder: Path) -> str | None:
    """Who holds a folder by `locked`, or None."""
    try:
        with (folder / ".lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:
        pass
    return None
