"""The guards of operators/codec/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import always, dropped, gives, instead, never, replaced, without
from tests.mutation.selections import (
    BIG_VALUES,
    EVENTS,
    KEY_TYPES,
    KEYS,
    NUMBERS,
    REGISTRY,
    SHAPES,
    TABLES,
)

GUARDS: tuple[Guard, ...] = (
    Guard(
        "key-written-alike",
        "a key column that is written as another kind of value does not make second ids of rows",
        never,
        KEY_TYPES,
    ),
    Guard(
        "key-moves",
        "what a row was stored under before its id moved is still deleted after a restart",
        replaced('f"{_WRITTEN}{written}{_MOVED}"', by='""'),
        KEY_TYPES,
    ),
    Guard(
        "key-contradicted",
        "a key column of another type than the known one does not make second ids of rows",
        instead("return raw"),
        KEY_TYPES,
    ),
    Guard(
        "decimal-bytes",
        "a decimal of more digits than any database has is not converted",
        never,
        BIG_VALUES,
    ),
    Guard(
        "bits-bytes",
        "a bit string that would be a number of millions of digits is not converted",
        never,
        BIG_VALUES,
    ),
    Guard(
        "array-digits",
        "the numbers of an array do not take minutes together",
        never,
        BIG_VALUES,
    ),
    Guard(
        "printed-digits",
        "zeros that only printing makes do not fill the memory",
        never,
        (*BIG_VALUES, "-k", "zeros and 200"),
    ),
    Guard(
        "json-digits",
        "an integer that readers of JSON round is stored as text",
        without("budget.wide_integers or -(2**63) <= value < 2**64"),
        NUMBERS,
    ),
    Guard(
        "registry-not-the-record",
        "a process without memory or files makes no dead letters of good records",
        instead("raise RecordError(subject=subject, cause=str(error), hint='') from None"),
        ("tests/unit/codec/test_registry.py", "-k", "the_process_lacks"),
    ),
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
            'f"{generation}.{commit:016x}.{own:016x}.{offset:016x}{tail}"',
            by='f"{generation}.{own:016x}.{commit:016x}.{offset:016x}{tail}"',
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
    Guard(
        "connects-null",
        "a null that a converter has written is a tombstone",
        without("message is None"),
        SHAPES,
    ),
    Guard(
        "whole-shape",
        "a row with columns called op and source is not taken for an envelope",
        never,
        SHAPES,
    ),
    Guard(
        "envelope-not-unwrapped",
        "an envelope is not taken for the unwrapped row that the contract promises",
        never,
        SHAPES,
    ),
    Guard(
        "ambiguous-envelope",
        "an envelope beside the table's own key is refused until the contract says what it is",
        never,
        SHAPES,
    ),
    Guard(
        "row-like-a-marker",
        "a row that looks like a heartbeat or a marker is a row where the contract says so",
        gives("found"),
        SHAPES,
    ),
    Guard(
        "columns-not-wrapper",
        "columns called schema and payload are not taken for a wrapped message",
        gives("payload, None"),
        SHAPES,
    ),
    Guard(
        "tombstone-of-keyed-row",
        "a tombstone deletes the row that its key names, also where rows name themselves",
        gives("()"),
        SHAPES,
    ),
    Guard(
        "null-of-no-row",
        "a converter's null that names no row is refused",
        never,
        SHAPES,
    ),
    Guard(
        "key-names-the-row",
        "a record whose key names another row than its value is refused",
        never,
        SHAPES,
    ),
    Guard(
        "one-order",
        "an unwrapped row with the positions of several databases is refused",
        never,
        SHAPES,
    ),
    Guard(
        "order-is-null",
        "an unwrapped row whose positions are all null is refused",
        never,
        SHAPES,
    ),
    Guard(
        "source-tables",
        "a physical table that the contract does not take is ignored",
        never,
        TABLES,
    ),
    Guard(
        "registry-size",
        "a registry's answer that fills the memory is given up",
        never,
        REGISTRY,
    ),
    Guard(
        "registry-deadline",
        "a registry that answers a byte at a time is given up",
        replaced("seconds", by="None"),
        REGISTRY,
    ),
)
