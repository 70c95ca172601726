"""A SOURCE that isn't on this machine.

A folder in an object store is listed and read there, a picture at a time. Archives, lists, parquet and
folders that hold nothing but tars or parquet are downloaded first, into `--staging`, and stay there:
what has the same size already isn't downloaded again.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dvae.data.formats import MAX_BYTES
from dvae.data.location import HTTP, scheme_of, shown
from dvae.data.objects import ObjectStore
from dvae.data.storage import Store, StoreError, open_store, pieces_of
from dvae.errors import UserError
from dvae.files import whole_file
from shards.pictures import PictureError
from shards.place import STAGING
from shards.sources import Item, inner_name, is_hidden

FILES = (".tar", ".zip", ".parquet", ".txt", ".csv", ".tsv", ".jsonl")


@functools.cache
def _store(url: str) -> ObjectStore:
    return ObjectStore(url)


def find_object(url: str) -> tuple[ObjectStore, str]:
    """The store of a single object, and its name there.

    Raises:
        UserError: the URL names none, or its store can't be opened.
    """
    bucket, _, name = url[(start := url.index("://") + 3) :].partition("/")
    if not name:
        raise UserError(f"{shown(url)!r} names no object: write {url[:start]}BUCKET/PATH")
    scheme_of(url[:start] + bucket)
    return _store(url[:start] + bucket), name


def read_object(url: str) -> bytes:
    """The bytes of a single object.

    Raises:
        PictureError: it can't be read.
    """
    store, name = find_object(url)
    try:
        return store.read_whole(name, MAX_BYTES)
    except StoreError as error:
        raise PictureError(f"cannot be read: {error}") from None


@dataclass(frozen=True)
class RemoteFolder:
    """The files below a URL of an object store."""

    url: str

    def files(self, ignored: Counter[str]) -> Iterator[Item]:
        """The files.

        Raises:
            StoreError: the store can't be listed.
        """
        for text, size in _store(self.url).walk():
            name = text.encode("utf-8", "surrogateescape")
            if is_hidden(name):
                ignored["hidden files"] += 1
            elif inner_name(name) != name:
                ignored["odd names"] += 1
            else:
                yield Item(name, size)

    def read(self, item: Item) -> bytes:
        """The bytes of a file of `files`."""
        if item.size > MAX_BYTES:
            raise PictureError(f"too large: {item.size} bytes, more than {MAX_BYTES}")
        try:
            name = item.name.decode("utf-8", "surrogateescape")
            return _store(self.url).read(name, 0, item.size)
        except StoreError as error:
            raise PictureError(f"cannot be read: {error}") from None


def find_remote(url: str, staging: Path | None) -> RemoteFolder | Path:
    """A remote folder, or the local copy of a remote archive, list or set of files.

    Args:
        url: of SOURCE.
        staging: where copies go; None: the user's cache.

    Raises:
        UserError: a folder of a web server, which can't be listed.
        StoreError: it can't be read.
    """
    home = (staging or STAGING.expanduser()) / hashlib.sha256(url.encode()).hexdigest()[:16]
    parts = urlsplit(url)
    if parts.path.lower().endswith(FILES):
        folder, _, name = parts.path.rpartition("/")
        return _copy(open_store(parts._replace(path=folder).geturl()), name, home)
    if parts.scheme in HTTP:
        raise UserError(
            f"SOURCE {shown(url)!r} can't be listed: give an archive, or a list of its pictures' URLs "
            f"({', '.join(FILES)})"
        )
    names = _store(url).names()
    if names and all(name.endswith((".tar", ".parquet")) for name in names):
        for name in names:
            _copy(_store(url), name, home)
        return home
    return RemoteFolder(url)


def _copy(store: Store, name: str, folder: Path) -> Path:
    """A local copy of a remote file."""
    path, size = folder / name, store.size(name)
    if not (path.is_file() and path.stat().st_size == size):
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.writelines(pieces_of(store, name, size))
    return path
