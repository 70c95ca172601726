"""Tars in a remote folder: their names, and one of them at a time on the local disk."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvae.data.manifest import is_shard_name
from dvae.data.objects import ObjectStore
from dvae.data.storage import Store, pieces_of
from dvae.errors import UserError
from dvae.files import TEMPORARY
from shards import tar

MAX_NAMES = 64 << 20  # bytes of a list of names
COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
REMEDY = "uncompress it there, or download it and upload the plain tar"


def remote_names(store: Store, listed: Path | None) -> list[str]:
    """The names of a remote folder's tars.

    Args:
        store: the folder.
        listed: a file with a name a line; None where the store can be asked.

    Raises:
        UserError: no list, or a name in it that isn't a plain tar's; names its line.
    """
    if listed is not None:
        return _listed(listed)
    if not isinstance(store, ObjectStore):
        raise UserError(
            f"{store.shown} can't be asked for its files: write the names of its tars into a file, one a "
            "line, and give it by --names"
        )
    found = store.names()
    names = [name for name in found if name.endswith(".tar") and is_shard_name(name)]
    packed = [name for name in found if name.endswith(COMPRESSED)]
    if not names:
        why = f"{packed[0]} is compressed: {REMEDY}" if packed else "give another folder"
        raise UserError(f"{store.shown} holds no .tar: {why}")
    return names


def _listed(path: Path) -> list[str]:
    with path.open("rb") as file:
        text = file.read(MAX_NAMES + 1)
    if len(text) > MAX_NAMES:
        raise UserError(f"--names {path} has more than {MAX_NAMES} bytes")
    names: list[str] = []
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        name = line.strip()
        if name.endswith(COMPRESSED):
            raise UserError(f"line {number} of {path}: {name[:60]!r} is compressed: {REMEDY}")
        if name and not is_shard_name(name):
            raise UserError(
                f"line {number} of {path}: {name[:60]!r} is not a plain file name that ends in .tar"
            )
        names += [name] if name else []
    if not names or len(set(names)) < len(names):
        raise UserError(f"--names {path} names {'a tar twice' if names else 'no tar'}")
    return names


@contextmanager
def downloaded(store: Store, name: str, folder: Path) -> Iterator[Path]:
    """A copy of a remote tar, in a folder below `folder` that is gone after the block.

    Raises:
        UserError: it's compressed.
        StoreError: it can't be read.
    """
    place = folder / f"{TEMPORARY}{os.getpid()}-{name}"
    place.mkdir()
    try:
        size = store.size(name)
        with (place / name).open("wb") as file:
            for number, piece in enumerate(pieces_of(store, name, size)):
                if number == 0 and tar.unpacker(piece):
                    raise UserError(f"{store.shown}/{name} is compressed: {REMEDY}")
                file.write(piece)
        yield place / name
    finally:
        shutil.rmtree(place, ignore_errors=True)
