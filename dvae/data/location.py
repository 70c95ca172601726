"""Where data may lie: a local folder, `http(s)://`, or an object store; and how that is shown.

What a location names is opened for reading, never run: command URLs, chains and patterns are refused
(design contract 5). Secrets in a URL (user:password@, the query of a signed link) reach the server
and nothing else: every message, file and log gets `shown(location)`.
"""

import re
from pathlib import PurePath
from urllib.parse import urlsplit

from dvae.errors import UserError
from dvae.masking import is_url, shown

HTTP = ("http", "https")
# By fsspec; of what it knows, those where an upload appears when it's complete.
OBJECTS = ("s3", "gs", "gcs", "az", "abfs", "oss", "hf")
ALLOWED = "a local folder, https://, http://, s3://, gs://, az://, oss:// or hf://"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def last_part(location: str) -> str:
    """`dogs` of `/data/dogs` and of `https://user:password@host/data/dogs/?signature`."""
    path = urlsplit(location).path if is_url(location) else location
    return PurePath(path).name or shown(location)


def has_secret(location: str) -> bool:
    """Whether a URL carries a user, a password or a query."""
    return shown(location) != location


def scheme_of(location: str) -> str:
    """`s3` of `s3://bucket/dogs`, "" of a local folder.

    Raises:
        UserError: a location of another kind, or one that names no host or bucket.
    """
    wrong = location in ("", "-") or "::" in location or re.search(r"[${}|<>\0\n]", location)
    match = _SCHEME.match(location)
    if wrong or (match and match[1].lower() not in HTTP + OBJECTS):
        raise UserError(
            f"{shown(location)[:200]!r} is no place that data are read from: give {ALLOWED}"
            + ("" if wrong else " (./ before the name of a folder that has a colon)")
        )
    if not match:
        return ""
    if not re.match(r"[a-z0-9]+://[^/?#]", location):
        raise UserError(f"{shown(location)!r} names no host or bucket: write {match[1]}://NAME/…")
    return match[1]


def check_http(url: str) -> None:
    """Raises `UserError` if a URL's host or port can't be understood."""
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UserError(f"{shown(url)!r} has no usable host or port: write https://HOST:PORT/PATH")
