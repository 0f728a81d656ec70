"""The guards of operators/changes/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import always, gives, instead, never, replaced, without
from tests.mutation.selections import DEDUP, GOLDEN, KEYS, NUMBERS, ORDER, TABLES, WRITER

GUARDS: tuple[Guard, ...] = (
    Guard(
        "exact-numbers",
        "a number that a double does not hold keeps its digits",
        gives("value"),
        NUMBERS,
    ),
    Guard(
        "offset-tie-break",
        "at the same position the later offset wins",
        replaced("offset", by="0"),
        ("tests/unit/codec/test_decoder.py",),
    ),
    Guard(
        "generation",
        "a higher generation orders before every position",
        replaced("generation", by="0"),
        ("tests/unit/codec/test_decoder.py",),
    ),
    Guard(
        "truncate-without-position",
        "a row without a position is not taken for one older than a TRUNCATE",
        without("has_position(version)"),
        DEDUP,
    ),
    Guard(
        "fallback-without-position",
        "a delete without a position is not taken for one that the store has overtaken",
        without("has_position(version)"),
        WRITER,
    ),
    Guard(
        "id-encoding",
        "key parts are percent-encoded",
        instead("text.encode()\nreturn text"),
        KEYS,
    ),
    Guard(
        "shard-of-key",
        "a row keeps its shard for ever",
        replaced("key.encode()", by="key.encode()[::-1]"),
        GOLDEN,
    ),
    Guard(
        "positions-of-one-log",
        "positions of two logs are not compared",
        always,
        ORDER,
    ),
    Guard(
        "offsets-of-one-place",
        "offsets of two partitions are not compared",
        never,
        ORDER,
    ),
    Guard(
        "truncate-one-table",
        "a TRUNCATE deletes rows of its own physical table alone",
        without("not other_table(version, truncate)"),
        TABLES,
    ),
)
