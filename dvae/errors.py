"""What ends a command without a traceback, and the exit code that it ends with."""

import errno
import re
import sys
from collections.abc import Callable

from dvae.masking import shown


class UserError(ValueError):
    """A mistake that the user can mend: what was given, the rule, the remedy (exit code 2)."""

    exit_code = 2


class DataError(UserError):
    """The data went bad under way: lost shards, or more bad samples than allowed (exit code 3)."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint or weights folder that is damaged or belongs to something else (exit code 4)."""

    exit_code = 4


class NonFiniteError(UserError):
    """The loss or its gradient was not finite and the recipe says to stop (exit code 5)."""

    exit_code = 5


class ResourceError(UserError):
    """The disk or the memory doesn't suffice (exit code 6)."""

    exit_code = 6


class DiscriminatorWonError(UserError):
    """The discriminator won for longer than the recipe allows (exit code 5)."""

    exit_code = 5


class PeerError(UserError):
    """Another process or machine was lost, hangs, or is slow by far (exit code 7)."""

    exit_code = 7

    def __str__(self) -> str:
        """The finding and the remedy."""
        return f"{self.args[0]}: what was saved is whole; run the same command again to go on"


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# In what torch raises: of its allocators, C++, oneDNN, cuBLAS, cuDNN and Metal.
SIGNS = re.compile(
    r"can't allocate memory|std::bad_alloc|ALLOC_FAILED|out of memory"
    r"|could not create a memory|could not (create|execute) a primitive(?! descriptor)"
)
LONGEST = 160  # characters of the library's own words


def exit_code_of(command: Callable[[], int | None]) -> int:
    """Run a command; a `UserError`, or a file that can't be used, becomes one message on stderr."""
    try:
        return command() or 0
    except UserError as error:
        sys.stderr.write(f"error: {shown(str(error))}\n")
        return error.exit_code
    except OSError as error:
        is_full = error.errno in FULL
        if error.filename is None and not is_full:
            raise
        place = f"{error.filename}: " if error.filename else ""
        remedy = ": make room, and run the same command again" if is_full else ""
        sys.stderr.write(f"error: {shown(place)}{error.strerror}{remedy}\n")
        return ResourceError.exit_code if is_full else UserError.exit_code
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = "ask for fewer or smaller pictures, or take a machine with more"
        sys.stderr.write(f"error: out of memory ({words_of(error)}): {remedy}\n")
        return ResourceError.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's or the host's memory doesn't suffice."""
    if isinstance(error, RuntimeError):  # as torch's own OutOfMemoryError is
        return SIGNS.search(str(error)) is not None
    return isinstance(error, MemoryError)


def words_of(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return str(error).partition("\n")[0][:LONGEST] or type(error).__name__
