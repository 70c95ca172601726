"""Bytes of an http or https URL, with limits: on their number, on time, on retries.

urllib3 retries connections, 429 and 5xx (and waits as long as Retry-After says, up to a minute); a
body that breaks off or is shorter than announced is asked for again here.
"""

import functools
import time

import urllib3

from dvae import __version__

USER_AGENT = f"dvae/{__version__}"
_TRIES = 4
_CHUNK = 1 << 20  # bytes
_SLOWEST = 60  # seconds that all of one picture may take
_RETRIED = (429, 500, 502, 503, 504)


class HttpError(Exception):
    """Why a URL gave nothing; the same text each time for the same cause."""


@functools.cache
def pool() -> urllib3.PoolManager:
    """The connections of this process."""
    retries = urllib3.Retry(
        _TRIES, redirect=5, status_forcelist=_RETRIED, backoff_factor=0.2, retry_after_max=60
    )
    timeout = urllib3.Timeout(connect=10, read=20)
    # Compressed transfer would hide how many bytes are really coming.
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    return urllib3.PoolManager(16, headers, maxsize=16, retries=retries, timeout=timeout)


def read_url(url: str, max_bytes: int) -> bytes:
    """All bytes of a URL.

    Raises:
        HttpError: a status other than 200, more than `max_bytes`, no answer, or four broken ones.
    """
    for _ in range(_TRIES):
        try:
            return _read_once(url, max_bytes)
        except urllib3.exceptions.MaxRetryError as error:
            raise HttpError(_cause(error)) from None
        except urllib3.exceptions.LocationParseError:
            raise HttpError("not a URL") from None
        except urllib3.exceptions.HTTPError:
            continue
    raise HttpError("the connection breaks again and again")


def _read_once(url: str, max_bytes: int) -> bytes:
    until = time.monotonic() + _SLOWEST
    answer = pool().request("GET", url, preload_content=False)
    try:
        if answer.status != 200:
            raise HttpError(f"status {answer.status}")
        parts: list[bytes] = []
        size = 0
        for part in answer.stream(_CHUNK, decode_content=False):
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise HttpError(f"more than {max_bytes} bytes")
            if time.monotonic() > until:
                raise HttpError(f"not done after {_SLOWEST} seconds")
        return b"".join(parts)
    finally:
        answer.close()  # a body that was left unread can't be followed by another request
        answer.release_conn()


def _cause(error: urllib3.exceptions.MaxRetryError) -> str:
    if isinstance(error.reason, urllib3.exceptions.ResponseError):
        return str(error.reason)
    return f"no answer ({type(error.reason).__name__})"
