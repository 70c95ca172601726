"""How far a command is: a bar on a terminal; in a file, a batch job's log say, a line a minute."""

from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS = 60.0  # between two lines, and before the first


class _Lines(tqdm):
    monitor_interval = 0  # it would start a thread

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line; `msg` is "" where a bar would be wiped away."""
        if msg is None:
            self.fp.write(f"{self}\n")
            self.fp.flush()


def progress(
    title: str,
    file: TextIO,
    unit: str,
    total: int | None = None,
    done: int = 0,
    items: Iterable[Any] | None = None,
) -> tqdm:
    """A bar, or lines, with the count, the rate and the time that is left.

    Args:
        title: in front.
        file: stderr, mostly.
        unit: of `total`; B is scaled.
        total: None: unknown.
        done: where an earlier run stopped.
        items: given again by iterating, and counted.
    """
    shape = {"desc": title, "file": file, "unit": unit, "unit_scale": unit == "B"}
    shape |= {"total": total, "initial": done, "iterable": items}
    if file.isatty():
        return tqdm(**shape)
    return _Lines(**shape, delay=SECONDS, mininterval=SECONDS, miniters=1, leave=False)
