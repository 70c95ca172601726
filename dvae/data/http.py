"""A folder of files behind `http(s)://`, read by range.

What breaks and may pass is tried again from the byte where it broke, and redirects are counted;
`answers` says what a server is believed. urllib3 keeps the connections; its own retries are off.
"""

import logging
import netrc
from collections.abc import Iterator
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import urllib3
from urllib3 import exceptions
from urllib3.response import BaseHTTPResponse
from urllib3.util import Timeout, make_headers

from dvae import __version__
from dvae.data.answers import Ended, checked, is_final, reason_of
from dvae.data.location import HTTP, check_http, shown
from dvae.data.patience import Deadline, Passing, Patience, gather
from dvae.data.storage import StoreError
from dvae.errors import UserError

PIECE = 1 << 18  # bytes taken from a connection at a time
MAX_REDIRECTS = 5
CONNECTIONS = 16  # kept open to a host
_REDIRECTS = (301, 302, 303, 307, 308)


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
            except Ended:  # an empty file has no first byte
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
            raise Passing(reason_of(error)) from None
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
            return response, checked(response, start, end, shown(url))
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
        except exceptions.HTTPError as error:
            if is_final(error):
                raise StoreError(f"{shown(url)}: {reason_of(error)}") from None
            raise Passing(reason_of(error)) from None


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
