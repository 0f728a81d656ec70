"""Formats of recovery state: the current one and the one before can be read.

A state is a tuple that starts with its format number, so that every release recognises it. To change
a format, raise its number, write a function that converts the previous format to the new one, and
delete the reader of the format before that (docs/design/state.md).
"""

from collections.abc import Callable
from typing import Any, TypeVar

from operators.errors import FatalError

R = TypeVar("R")


def record_of(state: Any, subject: str, current: int, from_before: Callable[[Any], R]) -> R:
    """The record in a state, converted to the current format.

    Args:
        state: The state from the recovery files.
        subject: What to call the state in an error message.
        current: Number of the format that this release writes: (number, record).
        from_before: Converts a state of the previous format to a record.

    Raises:
        FatalError: The state has another format.
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
