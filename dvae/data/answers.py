"""What an http server's answer is worth: the data, a reason to try again, or the end.

Nothing that a server says is believed without a second sign: a range must come with the Content-Range
that was asked for, an answer of all the bytes (200, Range ignored) must be long enough, and a web page
in place of the data is noticed. What may pass is 5xx, 429, resets, stalls and wrong lengths; 404, 403
and their like, and a certificate that isn't trusted, fail at once.
"""

import re
import ssl

from urllib3 import exceptions
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry

from dvae.data.patience import Passing
from dvae.data.storage import StoreError

MAX_SKIP = 64 << 20  # bytes read for nothing from a server that ignores Range
_MAY_PASS = (408, 425, 429)  # and 5xx


class Ended(StoreError):
    """A file that ends before the range that was asked for."""


def checked(response: BaseHTTPResponse, start: int, end: int, what: str) -> int | None:
    """The file's size by an answer's headers, None if they don't tell it.

    Raises:
        StoreError: a status that won't change.
        Passing: one that may, or headers that don't fit what was asked for.
    """
    status, headers = response.status, response.headers
    if status >= 500 or status in _MAY_PASS:
        raise Passing(f"the server answers {status}", _seconds(headers.get("Retry-After", "")))
    if status == 416:
        raise Ended(f"{what}: it ends before byte {start} (416)")
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


def _seconds(retry_after: str) -> float:
    """What a Retry-After asks for, as seconds or as a date; 0 where it's neither."""
    if not retry_after or len(retry_after) > 40:
        return 0.0
    try:
        return float(Retry().parse_retry_after(retry_after))
    except (exceptions.InvalidHeader, ValueError, OverflowError):
        return 0.0


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


def is_final(error: exceptions.HTTPError) -> bool:
    """Whether a failed request would fail again; a handshake that breaks off may not."""
    if isinstance(error, exceptions.SSLError):
        return not isinstance(_cause(error), ssl.SSLEOFError)
    return isinstance(error, exceptions.LocationValueError)


def reason_of(error: exceptions.HTTPError) -> str:
    """What went wrong, by the error's kind: its text holds the URL."""
    if isinstance(error, exceptions.SSLError):
        return _tls_reason(_cause(error))
    if isinstance(error, exceptions.ConnectTimeoutError | exceptions.NewConnectionError):
        return "no connection"
    if isinstance(error, exceptions.TimeoutError):
        return "no byte came for too long"
    if isinstance(error, exceptions.LocationValueError):
        return "it isn't a URL that can be asked for"
    return "the connection broke"


def _cause(error: exceptions.SSLError) -> object:
    return error.args[0] if error.args else None


def _tls_reason(cause: object) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"its certificate isn't trusted ({cause.verify_message}): if the server is your own, name "
            "the file of its certificate, or of who signed it, by SSL_CERT_FILE"
        )
    return f"TLS failed ({getattr(cause, 'reason', None) or 'no reason given'})"
