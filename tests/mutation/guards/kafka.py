"""The guards of operators/kafka/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import never, replaced
from tests.mutation.selections import CLIENTS, KAFKA, LETTERS

GUARDS: tuple[Guard, ...] = (
    Guard(
        "dead-letter-log",
        "what a dead letter says of a message reaches no log as it is",
        replaced("map(printable, said)", by="said"),
        ("tests/unit/kafka/test_dead_letters.py", "-k", "no_utf8"),
    ),
    Guard(
        "offset-reset",
        "a missing offset is reported, and never skipped",
        replaced('"error"', by='"earliest"'),
        KAFKA,
    ),
    Guard(
        "offset-gone",
        "the client's error for a missing offset stops the flow",
        never,
        KAFKA,
    ),
    Guard(
        "beginning",
        "a partition that was never read is read from its first record",
        replaced("OFFSET_BEGINNING", by="0"),
        KAFKA,
    ),
    Guard(
        "committed-only",
        "records of an uncommitted Kafka transaction are not read",
        replaced('"read_committed"', by='"read_uncommitted"'),
        KAFKA,
    ),
    Guard(
        "no-more-files",
        "a partition that cannot be reached for want of descriptors stops the flow",
        never,
        KAFKA,
    ),
    Guard(
        "own-options",
        "an option of the client that would break a guarantee is refused",
        never,
        CLIENTS,
    ),
    Guard(
        "letter-too-large",
        "a dead letter that is too large is shortened, and does not stop the flow",
        never,
        LETTERS,
    ),
    Guard(
        "records-before-gone",
        "a missing offset is reported, also if records were fetched before it",
        never,
        KAFKA,
    ),
)
