"""What a text shows of the URLs in it: not their secrets.

A user and a password, and the query of a signed link, reach the server and nothing else.
"""

import re

MASK = "***"  # in place of a secret
_URL = re.compile(
    r"""([A-Za-z][A-Za-z0-9+.-]*://?)
        (?P<user>[^/?\#\s"']*@ | [^/?\#\s:"']*:[^/?\#\s"']*[^\d/?\#\s"'][^?\#\s"']*@)?
        ([^\s?\#"']*)
        (?P<query>\?[^\s"']*)?""",
    re.VERBOSE,
)


def shown(text: str) -> str:
    """A location, or any text with URLs in it, without the secrets of those URLs.

    Showing it once more changes nothing, and a text without a URL stays as it is.
    """
    return _URL.sub(_masked, text)


def _masked(match: re.Match[str]) -> str:
    user = f"{MASK}@" if match["user"] else ""
    return f"{match[1]}{user}{match[3]}{f'?{MASK}' if match['query'] else ''}"


def is_url(text: str) -> bool:
    """Whether a text begins as a URL does."""
    return _URL.match(text) is not None
