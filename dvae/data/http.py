"""A folder of files behind `http(s)://`, read by range.

Nothing that a server says is believed without a second sign: a range must come with the Content-Range
that was asked for, an answer of all the bytes (200, Range ignored) is skipped through to the wanted
ones, a web page in place of the data is noticed, and redirects are counted. What may pass (5xx, 429,
resets, stalls, wrong lengths) is tried again from the byte where it broke; 404, 403 and their like
fail at once. urllib3 keeps the connections; its own retries are off.
"""

import logging
import netrc
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import urllib3
from urllib3 import exceptions
from urllib3.response import BaseHTTPResponse
from urllib3.util import Timeout, make_headers

from dvae import __version__
from dvae.data.location import HTTP, check_http, shown
from dvae.data.patience import Deadline, Passing, Patience, gather
from dvae.data.storage import StoreError
from dvae.errors import UserError

PIECE = 1 << 18  # bytes taken from a connection at a time
MAX_SKIP = 64 << 20  # bytes read for nothing from a server that ignores Range
MAX_REDIRECTS = 5
CONNECTIONS = 16  # kept open to a host
_REDIRECTS = (301, 302, 303, 307, 308)
_MAY_PASS = (408, 425, 429)  # and 5xx


class _Ended(StoreError):
    """A file that ends before the range that was asked for."""


class HttpStore:
    """Files below a URL; a query of the URL (a signed link) is sent with every name.

    User and password are taken from the URL or from ~/.netrc, and sent to its host only.

    Raises:
        UserError: a URL without a usable host, or a ~/.netrc that can't be parsed.
    """

    is_remote = True

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        check_http(url)
        self.shown = shown(url)
        self.patience = patience or Patience()
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self._base = parts._replace(netloc=host, path=parts.path.rstrip("/"), fragment="")
        self._origin = (parts.scheme, host)
        secret = _credentials(parts.username, parts.password, parts.hostname or "")
        self._secret = make_headers(basic_auth=secret) if secret else {}
        self._pools = urllib3.PoolManager(maxsize=CONNECTIONS, retries=False)
        # It warns of odd headers with the whole URL, signature included.
        logging.getLogger("urllib3").setLevel(logging.ERROR)

    def read(self, name: str, offset: int, size: int) -> bytes:
        """See `Store`."""
        url = self._url(name)

        def pieces(at: int, deadline: Deadline) -> Iterator[bytes]:
            return self._pieces(url, offset + at, offset + size, deadline)

        return gather(pieces, size, self.patience, shown(url))

    reread = read

    def read_whole(self, name: str, limit: int) -> bytes:
        """See `Store`."""
        size = self.size(name)
        if size > limit:
            raise StoreError(f"{shown(self._url(name))} has {size} bytes, more than {limit}")
        return self.read(name, 0, size)

    def size(self, name: str) -> int:
        """See `Store`; asked by a range of one byte, as signed links refuse HEAD."""
        url = self._url(name)
        found: list[int] = []

        def first_byte(_: int, deadline: Deadline) -> Iterator[bytes]:
            try:
                response, total = self._answer(url, 0, 1, deadline)
                response.close()
            except _Ended:  # an empty file has no first byte
                total = 0
            if total is None:
                raise Passing("the server tells no length")
            found.append(total)
            yield b"\0"

        gather(first_byte, 1, self.patience, shown(url))
        return found[-1]

    def _url(self, name: str) -> str:
        return urlunsplit(self._base._replace(path=f"{self._base.path}/{quote(name, safe='')}"))

    def _pieces(self, url: str, start: int, end: int, deadline: Deadline) -> Iterator[bytes]:
        """The bytes from `start` to `end`, or those that come before the connection breaks."""
        response, _ = self._answer(url, start, end, deadline)
        skip = start if response.status == 200 else 0
        wanted = end - start + skip
        try:
            while wanted:
                piece = response.read1(min(wanted, PIECE))
                if not piece:
                    return
                wanted -= len(piece)
                skipped = min(skip, len(piece))
                skip -= skipped
                yield piece[skipped:]
        except exceptions.HTTPError as error:
            raise Passing(_reason(error)) from None
        finally:
            if response.length_remaining == 0:
                response.drain_conn()  # the connection can serve again
            else:
                response.close()

    def _answer(
        self, url: str, start: int, end: int, deadline: Deadline
    ) -> tuple[BaseHTTPResponse, int | None]:
        """An answer that begins where asked for, or at 0 (status 200), and the file's size."""
        response = self._follow(url, {"Range": f"bytes={start}-{end - 1}"}, deadline)
        try:
            return response, _checked(response, start, end, shown(url))
        except (Passing, StoreError):
            response.close()
            raise

    def _follow(self, url: str, headers: dict[str, str], deadline: Deadline) -> BaseHTTPResponse:
        """The answer behind the redirects, if any."""
        asked = url
        for _ in range(MAX_REDIRECTS + 1):
            response = self._get(url, headers, deadline)
            target = response.headers.get("Location", "")
            if response.status not in _REDIRECTS or not target:
                return response
            response.close()
            before, url = urlsplit(url), urljoin(url, target)
            after = urlsplit(url)
            if after.scheme not in HTTP or (before.scheme, after.scheme) == ("https", "http"):
                raise StoreError(f"{shown(asked)} redirects to {shown(url)!r}: not followed")
        raise StoreError(f"{shown(asked)}: more than {MAX_REDIRECTS} redirects, a loop it seems")

    def _get(self, url: str, headers: dict[str, str], deadline: Deadline) -> BaseHTTPResponse:
        limits, left = self.patience, max(deadline.left(), 0.001)
        timeout = Timeout(connect=min(limits.connect, left), read=min(limits.silence, left))
        parts = urlsplit(url)
        secret = self._secret if (parts.scheme, parts.netloc) == self._origin else {}
        own = {"User-Agent": f"dvae/{__version__}", "Accept-Encoding": "identity"}
        try:
            return self._pools.request(
                "GET",
                url,
                headers=own | headers | secret,
                timeout=timeout,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (exceptions.SSLError, exceptions.LocationValueError) as error:
            raise StoreError(f"{shown(url)}: {_reason(error)}") from None
        except exceptions.HTTPError as error:
            raise Passing(_reason(error)) from None


def _checked(response: BaseHTTPResponse, start: int, end: int, what: str) -> int | None:
    """The file's size by an answer's headers, None if they don't tell it.

    Raises:
        StoreError: a status that won't change.
        Passing: one that may, or headers that don't fit what was asked for.
    """
    status, headers = response.status, response.headers
    if status >= 500 or status in _MAY_PASS:
        after = headers.get("Retry-After", "")
        seconds = float(after) if re.fullmatch(r"\d{1,6}", after, re.ASCII) else 0.0
        raise Passing(f"the server answers {status}", seconds)
    if status == 416:
        raise _Ended(f"{what}: it ends before byte {start} (416)")
    if status not in (200, 206):
        raise StoreError(f"{what}: {_meaning(status)}")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise Passing("it comes compressed, though it was asked for as it is")
    if status == 206:
        return _total(headers.get("Content-Range", ""), start, end)
    if "html" in headers.get("Content-Type", ""):
        raise Passing("a web page came in place of the data")
    if start > MAX_SKIP:
        raise StoreError(
            f"{what}: the server ignores Range, and byte {start} is too far to skip to: "
            "serve the shards by a server that knows ranges, or download them"
        )
    length = response.length_remaining
    if length is not None and length < end:
        raise Passing(f"it has {length} bytes, and byte {end - 1} was asked for")
    return length


def _total(content_range: str, start: int, end: int) -> int | None:
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", content_range.strip())
    if not match or int(match[1]) != start or not start <= int(match[2]) < end:
        raise Passing(f"another range came than the bytes from {start} that were asked for")
    return None if match[3] == "*" else int(match[3])


def _meaning(status: int) -> str:
    if status in (401, 403):
        return f"access is refused ({status}): give a user in ~/.netrc, or a new signed link"
    if status in (404, 410):
        return f"it is not there ({status})"
    return f"the server answers {status}"


def _reason(error: exceptions.HTTPError) -> str:
    """What went wrong, by the error's kind: its text holds the URL."""
    if isinstance(error, exceptions.SSLError):
        return "its certificate can't be trusted, or TLS failed"
    if isinstance(error, exceptions.ConnectTimeoutError | exceptions.NewConnectionError):
        return "no connection"
    if isinstance(error, exceptions.TimeoutError):
        return "no byte came for too long"
    if isinstance(error, exceptions.LocationValueError):
        return "it isn't a URL that can be asked for"
    return "the connection broke"


def _credentials(user: str | None, password: str | None, host: str) -> str | None:
    """`user:password` of the URL, or of ~/.netrc."""
    if user or password:
        return f"{unquote(user or '')}:{unquote(password or '')}"
    try:
        found = netrc.netrc().authenticators(host)
    except OSError:  # there is none
        return None
    except netrc.NetrcParseError:
        raise UserError("~/.netrc can't be parsed, or others may read it: mend it") from None
    return f"{found[0]}:{found[2]}" if found else None
