"""Change events in the format of Debezium 3 for PostgreSQL, without schemas."""

from typing import Any

import orjson

Change = tuple[bytes, bytes]
"""Kafka key and value."""

DOC = "Return the sum of all items, or the given default value where there is nothing to add up."
"""The beginning of each row's text where only the length of texts matters."""

_START_MS = 1_700_000_000_000


def topic_of(table: str) -> str:
    """The topic of a table."""
    return f"app.public.{table}"


def change(table: str, op: str, lsn: int, row: dict[str, Any]) -> Change:
    """One record; the primary key of `row` is the column `id`."""
    ts_ms = _START_MS + lsn
    envelope = {
        "before": None,
        "after": row,
        "source": {
            "version": "3.6.3.Final",
            "connector": "postgresql",
            "name": "app",
            "ts_ms": ts_ms,
            "snapshot": "false",
            "db": "app",
            "sequence": f'["{lsn - 1}","{lsn}"]',
            "schema": "public",
            "table": table,
            "txId": 759 + lsn,
            "lsn": lsn,
        },
        "op": op,
        "ts_ms": ts_ms,
    }
    return orjson.dumps({"id": row["id"]}), orjson.dumps(envelope)


def update(table: str, id_: int, lsn: int) -> Change:
    """An update of a row in the idle contract's table, with a text that no other update has."""
    row = {"id": id_, "name": f"row {id_}", "doc": f"{DOC} ({lsn})", "kind": "function"}
    return change(table, "u", lsn, {**row, "size": lsn % 1_000})
