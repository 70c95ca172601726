"""A folder in an object store (`s3://`, `gs://`, `abfs://`, `hf://`), read by range through fsspec.

Credentials and endpoints come from each store's own environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
HF_TOKEN …), never from a recipe.
"""

from collections.abc import Iterator
from typing import Any

import fsspec

from dvae.data.location import has_secret, shown
from dvae.data.patience import Deadline, Passing, Patience, gather
from dvae.data.storage import StoreError
from dvae.errors import UserError

_PACKAGES = {"s3": "dvae[s3]", "gs": "gcsfs", "abfs": "adlfs", "hf": "huggingface_hub"}
_MAY_PASS = (OSError, TimeoutError, ValueError, RuntimeError)  # what the clients raise


class ObjectStore:
    """Files below a URL of an object store.

    Raises:
        UserError: the store's client isn't installed, or the URL holds credentials.
    """

    is_remote = True

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        if has_secret(url):
            raise UserError(f"{shown(url)!r} holds credentials: set the store's variables instead")
        self.shown = url.rstrip("/")
        self.patience = patience or Patience()
        scheme = url.partition(":")[0]
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except ImportError:
            raise UserError(f"{url!r} needs a client: pip install {_PACKAGES[scheme]}") from None
        self._root = str(root).rstrip("/")

    def read(self, name: str, offset: int, size: int) -> bytes:
        """See `Store`."""
        path = f"{self._root}/{name}"

        def pieces(at: int, _: Deadline) -> Iterator[bytes]:
            start, end = offset + at, offset + size
            yield self._try(name, lambda: self._files.cat_file(path, start=start, end=end))

        return gather(pieces, size, self.patience, f"{self.shown}/{name}")

    reread = read

    def read_whole(self, name: str, limit: int) -> bytes:
        """See `Store`."""
        size = self.size(name)
        if size > limit:
            raise StoreError(f"{self.shown}/{name} has {size} bytes, more than {limit}")
        return self.read(name, 0, size)

    def size(self, name: str) -> int:
        """See `Store`."""
        found: list[int] = []

        def ask(_: int, __: Deadline) -> Iterator[bytes]:
            found.append(int(self._try(name, lambda: self._files.size(f"{self._root}/{name}"))))
            yield b"\0"

        gather(ask, 1, self.patience, f"{self.shown}/{name}")
        return found[-1]

    def names(self) -> list[str]:
        """The files of the folder."""
        entries = self._try("", lambda: self._files.ls(self._root, detail=True))
        return sorted(str(e["name"]).rsplit("/", 1)[-1] for e in entries if e["type"] == "file")

    def _try(self, name: str, request: Any) -> Any:
        try:
            return request()
        except FileNotFoundError:
            raise StoreError(f"{self.shown}/{name}: it is not there") from None
        except PermissionError:
            raise StoreError(f"{self.shown}/{name}: access is refused") from None
        except _MAY_PASS as error:
            raise Passing(shown(str(error) or type(error).__name__)[:200]) from None
