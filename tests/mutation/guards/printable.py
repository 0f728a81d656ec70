"""The guards of operators/printable.py."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import replaced
from tests.mutation.selections import PRINTABLE, SECRETS

GUARDS: tuple[Guard, ...] = (
    Guard(
        "no-credentials",
        "an address is shown without user and password",
        replaced('rest.rpartition("@")[2]', by="rest"),
        (*PRINTABLE, *SECRETS),
    ),
    Guard(
        "log-printable",
        "no name from outside writes a line or an escape sequence into the log",
        replaced(
            "printable_message(super().formatMessage(record))", by="super().formatMessage(record)"
        ),
        PRINTABLE,
    ),
)
