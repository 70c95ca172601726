"""A `Note`: one line that says in words what was found and, where it isn't well, what to do."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from dvae.errors import UserError
from dvae.masking import shown

UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
Verdict = Literal["ok", "warning", "wrong"]


class Note(NamedTuple):
    """One thing that was looked at."""

    verdict: Verdict
    subject: str
    text: str  # what was found; where it isn't well, also the remedy

    def __str__(self) -> str:
        return f"{self.verdict:8} {self.subject:16} {shown(self.text)}"


def noted(subject: str, good: bool, text: str, remedy: str, worst: Verdict = "warning") -> Note:
    """Well, or of the `worst` kind, with its remedy."""
    return Note("ok", subject, text) if good else Note(worst, subject, f"{text}: {remedy}")


def attempt(subject: str, look: Callable[[], Iterator[Note]]) -> Iterator[Note]:
    """The notes of a look; what it can't read is one more that is wrong."""
    try:
        yield from look()
    except UserError as error:
        yield Note("wrong", subject, str(error))
    except OSError as error:
        yield Note("wrong", subject, f"{error.filename}: {error.strerror}")


def amount(count: float) -> str:
    """Bytes for people: 1.2 GB."""
    power = 0
    while count >= 999.5 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {UNITS[power]}"


def checked(subject: str, text: str, check: Callable[[], None], worst: Verdict = "wrong") -> Note:
    """The note of a check that raises where it isn't well."""
    try:
        check()
    except UserError as error:
        return Note(worst, subject, str(error))
    return Note("ok", subject, text)
