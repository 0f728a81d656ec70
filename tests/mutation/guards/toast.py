"""The guards of operators/toast/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import dropped, gives, instead, never, replaced, without
from tests.mutation.selections import CARRYING, DEDUP, WRITER

GUARDS: tuple[Guard, ...] = (
    Guard(
        "dead-letter-in-chain",
        "so does one of several changes of a row, and the older ones take its place",
        replaced("RecordError", by="ZeroDivisionError"),
        DEDUP,
    ),
    Guard(
        "dead-letter-leaves-row",
        "a bad change leaves its row as it was, also within one window",
        instead("break"),
        DEDUP,
    ),
    Guard(
        "taint-in-window",
        "a row that follows a missing version takes nothing from an older row in its window",
        without("was_refused(row.row_key, row.version, before.version)"),
        CARRYING,
    ),
    Guard(
        "taint-moves",
        "a row whose key changes announces nothing from before a missing version",
        never,
        CARRYING,
    ),
    Guard(
        "fallbacks-in-window",
        "fallbacks are kept down to the first row that cannot be refused",
        replaced("isinstance(row, PartialRow)", by="isinstance(row, PartialRow) and not fallbacks"),
        CARRYING,
    ),
    Guard(
        "fallback-ahead",
        "a fallback does not replace a newer version in the store",
        without("stored is not None and is_before(newest.version, stored)"),
        WRITER,
    ),
    Guard(
        "left-out-follows",
        "a left-out value is taken only from the version that the row follows",
        gives("True"),
        CARRYING,
    ),
    Guard(
        "left-out-other-place",
        "nothing is taken from a version of another partition: others may lie between, not read yet",
        never,
        CARRYING,
    ),
    Guard(
        "left-out-other-place-in-window",
        "nor from one that waits in the same window",
        never,
        CARRYING,
    ),
    Guard(
        "left-out-other-place-moves",
        "nor is it announced for the row's new key",
        never,
        CARRYING,
    ),
    Guard(
        "left-out-refused",
        "a row that follows a refused version takes nothing from the one before it",
        gives("version <= up_to"),
        CARRYING,
    ),
    Guard(
        "left-out-between",
        "a left-out value is not taken from a pending row if another version came between",
        gives("_take(row, donor, renderer)"),
        CARRYING,
    ),
    Guard(
        "left-out-passed-on",
        "what a donor lacks as well is taken from the version that the donor follows",
        gives("filled"),
        CARRYING,
    ),
    Guard(
        "left-out-other-row",
        "with [source] dsn set, nothing is taken from an old key",
        without("not database"),
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
    Guard(
        "key-changes-in-a-circle",
        "keys that are said to come from each other end the search, not the flow",
        gives("self.stage(*held.key_change)"),
        CARRYING,
    ),
)
