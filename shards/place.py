"""Where shards go: a local folder, or a folder in an object store behind a local one.

What goes to an object store is made whole in the local folder first, sent, and removed here; an upload
appears under its name when it's complete, so that contract 3 holds there too. The mark, the journal
and the lock of an unfinished packing stay here: the same command on the same machine goes on.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dvae.data.manifest import Shard
from dvae.data.storage import LocalStore, Store
from dvae.errors import UserError

if TYPE_CHECKING:
    from shards.bucket import Bucket

STAGING = Path("~/.cache/dvae-packing")


@dataclass(frozen=True)
class Place:
    """Where shards go: `folder`, or `url` by way of it."""

    folder: Path
    url: str = ""

    @cached_property
    def store(self) -> Store:
        """What can be read there."""
        return self._bucket if self.url else LocalStore(self.folder)

    @cached_property
    def _bucket(self) -> "Bucket":
        from shards.bucket import Bucket  # and fsspec, which local packing does without

        return Bucket(self.url)

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return self.url or str(self.folder)

    def names(self) -> list[str]:
        """The files that are there."""
        if self.url:
            return self._bucket.there()
        return [path.name for path in self.folder.glob("*") if path.is_file()]

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return self._bucket.has(name) if self.url else (self.folder / name).exists()

    def publish(self, *names: str, keep: bool = False) -> None:
        """Bring whole files of `folder` to where they belong, in this order."""
        for name in names if self.url else ():
            self._bucket.upload(self.folder / name, name)
            if not keep:
                (self.folder / name).unlink()

    def publish_shard(self, shard: Shard) -> None:
        """Bring a shard and its index there."""
        self.publish(shard.index_name, shard.name)

    def remove(self, name: str) -> None:
        """Delete a file there that may not exist."""
        if self.url:
            self._bucket.remove(name)
        else:
            (self.folder / name).unlink(missing_ok=True)


def place_of(out: Path | str, staging: Path | None) -> Place:
    """The place that OUT names.

    Args:
        out: a folder, or the URL of one in an object store.
        staging: where files lie until they're sent; None: a folder of its own in the user's cache.

    Raises:
        UserError: OUT is a file, a web address, or an object store whose client is absent.
    """
    if isinstance(out, Path):
        if out.exists() and not out.is_dir():
            raise UserError(f"OUT {str(out)!r} is a file: give a folder")
        return Place(out)
    if out.startswith("http"):
        raise UserError(f"OUT {out!r} can't be written to: give a folder or s3://BUCKET/FOLDER")
    url = out.rstrip("/")
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    place = Place((staging or STAGING.expanduser()) / name, url)
    assert place.store  # the client is there, and the URL holds no secret
    return place
