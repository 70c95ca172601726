"""A folder in an object store (`s3://`, `gs://`, `hf://` …), read by range through fsspec.

Credentials and endpoints come from each store's own environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN …), never from a recipe. The clients give a range whole or not at
all, and time their requests themselves: what breaks is asked for anew, not from the byte where it broke.
"""

import errno
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import fsspec
from fsspec.registry import known_implementations

from dvae.data.location import has_secret, shown
from dvae.data.patience import Deadline, Passing, Patience, gather
from dvae.data.storage import StoreError
from dvae.errors import UserError

# Some servers send the checksum of the whole object with a range of it; pictures have their own.
_S3_OPTIONS = {"config_kwargs": {"response_checksum_validation": "when_required"}}
_EXACT = {"cache_type": "none"}  # or a client without ranges of its own reads megabytes beyond

_Kinds = tuple[type[Exception], ...]
# Each client raises errors of its own.
_ANY_FAILURES: tuple[_Kinds, _Kinds] = (Exception,), (PermissionError,)
# Not of the store's, and the same at every try.
_MISTAKES: _Kinds = (
    TypeError,
    AttributeError,
    NameError,
    AssertionError,
    NotImplementedError,
    ImportError,
    MemoryError,
)

_Answer = TypeVar("_Answer")


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
        is_s3 = scheme == "s3"
        # Not a client that the process has: the environment may have changed since.
        options = {"skip_instance_cache": True, "use_listings_cache": False} | (
            _S3_OPTIONS if is_s3 else {}
        )
        try:
            self._may_pass, self._refused = _s3_failures() if is_s3 else _ANY_FAILURES
            self._files, root = fsspec.core.url_to_fs(url, **options)
        except ImportError:
            package = known_implementations[scheme]["class"].partition(".")[0]
            name = "'dvae[s3]'" if is_s3 else package
            raise UserError(f"{url!r} needs a client: pip install {name}") from None
        except Exception as error:  # noqa: BLE001 - each client has its own for an account that's absent
            raise UserError(
                f"{url!r} can't be opened ({shown(str(error))[:200]}): set the store's variables"
            ) from None
        self._root = str(root).rstrip("/")
        self._options = {} if self._files.async_impl else _EXACT

    def read(self, name: str, offset: int, size: int) -> bytes:
        """See `Store`."""
        path = f"{self._root}/{name}"

        def pieces(at: int, _: Deadline) -> Iterator[bytes]:
            span = {"start": offset + at, "end": offset + size}
            yield self._try(name, lambda: self._files.cat_file(path, **span, **self._options))

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
        return int(self._ask(name, lambda: self._files.size(f"{self._root}/{name}")))

    def names(self) -> list[str]:
        """The files of the folder, sorted.

        Raises:
            StoreError: it can't be listed.
        """
        try:
            entries: list[dict[str, Any]] = self._try("", lambda: self._files.ls(self._root, True))
        except Passing as error:
            raise StoreError(f"{self.shown} can't be listed: {error}") from None
        return sorted(str(e["name"]).rsplit("/", 1)[-1] for e in entries if e["type"] == "file")

    def walk(self) -> Iterator[tuple[str, int]]:
        """The path, below the folder, and the size of each file below it, a folder at a time.

        A folder without a name can't be listed; its path ends with a slash.

        Raises:
            StoreError: it can't be listed.
        """
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                entries = self._try(folder, partial(self._files.ls, self._root + folder, True))
            except Passing as error:
                raise StoreError(f"{self.shown}{folder} can't be listed: {error}") from None
            for entry in entries:
                path = str(entry["name"])[len(self._root) :]
                is_folder = entry["type"] == "directory"
                if is_folder and path.rstrip("/") != folder:  # a//b has a folder without a name
                    folders.append(path.rstrip("/"))
                elif is_folder or path.strip("/"):
                    yield path.lstrip("/"), int(entry["size"])

    def _ask(self, name: str, request: Callable[[], _Answer]) -> _Answer:
        """What a request that isn't for bytes gives, with the same patience."""
        answers: list[_Answer] = []

        def one_byte(_: int, __: Deadline) -> Iterator[bytes]:
            answers.append(self._try(name, request))
            yield b"\0"

        gather(one_byte, 1, self.patience, f"{self.shown}/{name}")
        return answers[-1]

    def _try(self, name: str, request: Callable[[], _Answer]) -> _Answer:
        try:
            return request()
        except FileNotFoundError:
            raise StoreError(f"{self.shown}/{name}: it is not there") from None
        except _MISTAKES:
            raise
        except (*self._refused, *self._may_pass) as error:
            if isinstance(error, self._refused) or _is_refusal(error):
                raise StoreError(
                    f"{self.shown}/{name}: access is refused: set credentials"
                ) from None
            reason = shown(str(error) or type(error).__name__)[:200]
            if isinstance(error, OSError) and error.errno == errno.EINVAL:  # a 416 too
                raise StoreError(
                    f"{self.shown}/{name}: it ends before what was asked for, or the store refuses "
                    f"that: {reason}"
                ) from None
            raise Passing(reason) from None


def _is_refusal(error: Exception) -> bool:
    """Whether a client's error tells a 401 or 403, each by a name of its own."""
    tellers = error, getattr(error, "response", None)
    names = "status", "code", "status_code"
    return any(str(getattr(t, name, "")) in ("401", "403") for t in tellers for name in names)


def _s3_failures() -> tuple[_Kinds, _Kinds]:
    """What the client raises: where trying again may help, and where access is refused."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    return (OSError, ValueError, BotoCoreError, ClientError), (PermissionError, NoCredentialsError)
