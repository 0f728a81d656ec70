"""Entries of the ledger → rows of its collection. Values only: no client, no network."""

from collections.abc import Mapping
from typing import Any

from operators.errors import FatalError
from operators.milvus.filters import check_ledger_names
from operators.store.protocol import MAX_LEDGER_BYTES


def ledger_rows(entries: Mapping[str, str]) -> list[tuple[dict[str, Any], int]]:
    """Entries of the ledger as rows of its collection, each with its estimated size in bytes.

    Raises:
        FatalError: A name is not percent-encoded, or a text is too long or not valid Unicode.
    """
    check_ledger_names(entries)
    rows = []
    for name, text in entries.items():
        subject = f"entry '{name[:200]}' of the ledger"
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise FatalError(
                subject=subject, cause="is not valid Unicode", hint="This is a bug in Rowvec"
            ) from None
        if size > MAX_LEDGER_BYTES:
            raise FatalError(
                subject=subject,
                cause=f"is {size} bytes of UTF-8, more than {MAX_LEDGER_BYTES}",
                hint="Divide the tables among more flows",
            )
        rows.append(({"id": name, "vector": [0.0, 0.0], "body": text}, len(name) + size + 24))
    return rows
