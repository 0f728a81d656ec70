"""Change events shaped as Debezium 3 writes them for PostgreSQL, without schemas."""

from typing import Any

import orjson

Change = tuple[bytes, bytes]
"""Kafka key and value."""

_START_MS = 1_700_000_000_000


def topic_of(table: str) -> str:
    """The topic of a table."""
    return f"app.public.{table}"


def change(table: str, op: str, lsn: int, row: dict[str, Any]) -> Change:
    """One record; `row` has its primary key in the column `id`."""
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
