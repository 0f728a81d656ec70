"""What happens to a table in PostgreSQL that no message tells, or that a message does not show."""

from collections.abc import Iterator
from typing import NamedTuple

from operators.codec.sql_names import Origin, sql_name
from operators.contract.table import TableSection

HIDDEN = """
SELECT c.relkind = 'p',
       EXISTS (
           SELECT FROM pg_catalog.pg_publication p
           JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.pubname
           WHERE t.schemaname = n.nspname AND t.tablename = c.relname
             AND to_jsonb(p) ->> 'pubviaroot' = 'true'
       ),
       ARRAY(
           SELECT a.attname::text FROM pg_catalog.pg_attribute a
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             AND a.atthasdef AND NOT a.attnotnull
             AND coalesce(to_jsonb(a) ->> 'attgenerated', '') = ''
       )
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""
"""Selects a `Hidden` for a table."""


class Hidden(NamedTuple):
    """What a table has that its messages do not show.

    Attributes:
        partitioned: It is partitioned, and holds no rows itself.
        by_root: A publication sends the changes of its partitions as changes of the table.
        defaults: Columns that may be NULL, and have a default.
    """

    partitioned: bool = False
    by_root: bool = False
    defaults: list[str] = []  # noqa: RUF012  # a NamedTuple's; it is never changed


def partition_warnings(table: TableSection, origin: Origin, hidden: Hidden) -> Iterator[str]:
    """What the user should know of a table that is partitioned."""
    name = sql_name(origin)
    if hidden.partitioned and hidden.by_root:
        yield (
            f"table {table.name}: {name} is partitioned, and published by its root: no message comes "
            "when a partition is dropped, detached or truncated, and its rows stay in the collection. "
            "DELETE the rows before, or TRUNCATE the whole table"
        )
    elif hidden.partitioned:
        yield (
            f"table {table.name}: {name} is partitioned, and no publication sends it by its root: its "
            "changes come in the topics of its partitions, and no message comes when one is dropped or "
            "detached. Set publish.via.partition.root=true in the connector, or name each partition's "
            "topic in the contract"
        )
