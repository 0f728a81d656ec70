"""Which formats of a recovery state can be read: the current one, and the one before it.

A state is a tuple that begins with the number of its format, so that any release can tell. Whoever
changes a format raises its number, writes down how a state of the format that was current becomes one
of the new format, and drops the reader of the format before that (docs/design/state.md).
"""

from collections.abc import Callable
from typing import Any, TypeVar

from operators.errors import FatalError

R = TypeVar("R")


def record_of(state: Any, subject: str, current: int, from_before: Callable[[Any], R]) -> R:
    """What a state holds, in the current format.

    Args:
        state: As it was in the recovery files.
        subject: What it is about.
        current: The format that this release writes: its number, and then the record.
        from_before: Makes the record of a state of the format before.

    Raises:
        FatalError: It has another format.
    """
    found = state[0]
    if found == current:
        record: R = state[1]
        return record
    if found != current - 1:  # guard: state-format, state-format-before
        raise FatalError(
            subject=f"recovery state of {subject}",
            cause=f"it has format {found}, and this release reads formats {current - 1} and {current}",
            hint="run the release that wrote it, or start with an empty recovery directory",
        )
    return from_before(state)
