"""The guards of operators/codec/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import always, dropped, gives, never, replaced, without
from tests.mutation.selections import EVENTS, KEYS

GUARDS: tuple[Guard, ...] = (
    Guard(
        "snapshot-read",
        "a row read by a PostgreSQL snapshot orders before what is streamed after it",
        dropped,
        EVENTS,
    ),
    Guard(
        "commit-first",
        "changes of PostgreSQL are ordered by their commit first",
        replaced("commit", by="0"),
        EVENTS,
    ),
    Guard(
        "streamed",
        "a streamed change is not taken for a snapshot's read, whatever its source says",
        never,
        EVENTS,
    ),
    Guard(
        "commit-first-short",
        "the fast path for streamed changes also orders by the commit first",
        replaced(
            'f"{generation}.{commit:016x}.{own:016x}.{offset:016x}"',
            by='f"{generation}.{own:016x}.{commit:016x}.{offset:016x}"',
        ),
        EVENTS,
    ),
    Guard(
        "offset-tie-break-short",
        "the fast path also lets the later offset win at the same position",
        replaced("offset", by="0"),
        EVENTS,
    ),
    Guard(
        "generation-short",
        "the fast path also orders by the generation first",
        replaced("generation", by='"0000"'),
        EVENTS,
    ),
    Guard(
        "snapshot-read-short",
        "a snapshot's read does not take the fast path",
        without('source["snapshot"] != "false"'),
        EVENTS,
    ),
    Guard(
        "usable-short",
        "a position that is not a valid number does not take the fast path",
        always,
        EVENTS,
    ),
    Guard(
        "key-length",
        "a key that would not fit an entity's id is refused",
        never,
        KEYS,
    ),
    Guard(
        "key-kinds",
        "the key true is not the key 1",
        replaced('"true" if value else "false"', by="str(int(value))"),
        KEYS,
    ),
    Guard(
        "mask-key",
        "a masked key column is masked before it becomes part of a key",
        gives("value"),
        KEYS,
    ),
)
