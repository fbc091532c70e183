"""The two ways a request to this package can end badly."""


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
