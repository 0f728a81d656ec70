"""The guards of operators/errors.py."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import replaced
from tests.mutation.selections import PRINTABLE

GUARDS: tuple[Guard, ...] = (
    Guard(
        "error-printable",
        "no name from outside writes a line or an escape sequence into a message",
        replaced("printable_message(each)", by="each"),
        PRINTABLE,
    ),
)
