"""Errors that are not Rowvec's own: which of them are told as a message, and in which words."""

from operators.errors import FatalError

_PANIC = "PanicException"
"""Class name of a panic in Rust code: no Exception, and the class cannot be imported."""


def is_told(error: BaseException) -> bool:
    """Whether it is told as a message, as opposed to Ctrl-C and the end of the process."""
    return isinstance(error, Exception) or type(error).__name__ == _PANIC


def in_words(error: BaseException) -> str:
    """Its type and text, on one line."""
    text = " ".join(str(error).split()).replace(" panicked at ", " failed at ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def of_a_check(name: str, error: BaseException) -> FatalError:
    """What `rowvec check` and `rowvec run` tell of a check that ended with a foreign error."""
    # What the check of the tables meets may quote a row.
    what = type(error).__name__ if name == "tables" else in_words(error)
    return FatalError(
        subject=f"the check of {name}",
        cause=f"it ended with {what}, which Rowvec does not expect there",
        hint="no row was written. `rowvec run --verbose` tells where it came from",
    )
