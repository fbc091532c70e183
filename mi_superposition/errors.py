"""The two ways a request to this package can end badly."""

import textwrap


class RequestError(ValueError):
    """The request was wrong: the message is one line that quotes the value and says what would be right.

    The command line turns it into exit code 2.
    """


class WorkError(RuntimeError):
    """The request was fine but the work failed (a damaged file, a full disk). Exit code 1."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch, and the C++ below it, say so of their own in words."""
    said = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in said for words in ("allocate memory", "out of memory", "bad_alloc"))
    )


def first_line(error: Exception) -> str:
    """The first line of what an error of another package says, cut to a length that fits into a line of ours."""
    said = str(error).strip()
    return textwrap.shorten(said.splitlines()[0], 120) if said else type(error).__name__
