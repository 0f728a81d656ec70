"""A row's identity over all tables, and how it is encoded."""

from typing import NewType
from urllib.parse import quote, unquote

from operators.contract.table import TableSection
from operators.errors import RecordError

RowKey = NewType("RowKey", str)
"""A row's identity over all tables: `table:part,part`, each part percent-encoded.

It contains nothing but `A-Z a-z 0-9 _ . ~ - % : ,`, so it is safe inside a filter expression.
"""


def key_prefix(table: str) -> str:
    """The prefix of all row keys of a table, and of no others."""
    return f"{encoded(table)}:"


def key_values(table: TableSection, key: RowKey) -> dict[str, str]:
    """The key's columns, as text."""
    _, _, parts = key.partition(":")
    return dict(zip(table.key, map(unquote, parts.split(",")), strict=True))


def encoded(text: str) -> str:
    """Percent-encoded."""
    # Nearly every key is alphanumeric, and `quote` takes longer than parsing the whole envelope.
    if text.isascii() and text.isalnum():
        return text
    try:
        return quote(text, safe="")  # guard: id-encoding
    except UnicodeEncodeError:
        raise RecordError(
            subject="key",
            cause="it is not valid Unicode (a lone surrogate)",
            hint="repair it at the source",
        ) from None
