"""The guards of operators/toast/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import dropped, gives, never, without
from tests.mutation.selections import CARRYING

GUARDS: tuple[Guard, ...] = (
    Guard(
        "left-out-follows",
        "a left-out value is taken only from the version that the row follows",
        gives("True"),
        CARRYING,
    ),
    Guard(
        "left-out-between",
        "a left-out value is not taken from a pending row if another version came between",
        without('before.version < (partial.after or "")'),
        CARRYING,
    ),
    Guard(
        "left-out-other-row",
        "with [source] dsn set, nothing is taken from an old key",
        dropped,
        CARRYING,
    ),
    Guard(
        "left-out-moves",
        "a row waits for the values that its old key is about to announce",
        gives("False"),
        (*CARRYING, "tests/unit/stages/test_lane_writer.py"),
    ),
    Guard(
        "left-out-refused-between",
        "values are not announced for a new key if a later version of the row was refused",
        never,
        CARRYING,
    ),
    Guard(
        "left-out-told-again",
        "a repeated delete does not drop the values that the first one announced",
        dropped,
        CARRYING,
    ),
    Guard(
        "left-out-lane-ended",
        "no lane waits for a lane that has ended",
        dropped,
        CARRYING,
    ),
)
