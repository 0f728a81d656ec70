"""Whether PostgreSQL's log identifies the row of each change of a table, and the fix if it does not."""

from collections.abc import Sequence
from typing import NamedTuple

from operators.codec.sql_names import Origin, listed, sql_name
from operators.contract.table import TableSection

_TABLE_KINDS = ("r", "p")

IDENTITIES = """
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
       c.relreplident::text, coalesce(p.columns, '{}'), coalesce(p.immediate, false),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM (
    SELECT coalesce(l.relid, t.oid) AS oid, coalesce(l.level, 0) AS depth
    FROM pg_catalog.pg_class t
    JOIN pg_catalog.pg_namespace s ON s.oid = t.relnamespace
    LEFT JOIN LATERAL pg_catalog.pg_partition_tree(t.oid) l ON l.isleaf OR l.level = 0
    WHERE s.nspname = %s AND t.relname = %s
) r
JOIN pg_catalog.pg_class c ON c.oid = r.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY k.place) AS columns,
           bool_and(i.indimmediate) AS immediate
    FROM pg_catalog.pg_index i
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k (attnum, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts
) p ON true
ORDER BY r.depth, n.nspname, c.relname
"""
"""Selects an `Identity` for a table, and for each of its partitions that holds rows.

PostgreSQL uses the replica identity of the partition, whatever the table's is."""


class Identity(NamedTuple):
    """How a table, or one of its partitions, identifies its rows in the log."""

    schema: str
    table: str
    kind: str
    persistence: str
    identity: str
    primary_key: list[str]
    immediate: bool
    columns: list[str]


def identity_problem(
    table: TableSection, origin: Origin, identities: Sequence[Identity]
) -> str | None:
    """Why the log does not identify the rows of a table, with the fix; None if it does.

    Args:
        table: The contract's.
        origin: The table in the database.
        identities: What `IDENTITIES` selected for it.
    """
    if not identities:
        return (
            f"{sql_name(origin)} is not in the database of [source]; make dsn name the database "
            "that Debezium reads"
        )
    return next(filter(None, (_problem(table, each) for each in identities)), None)


def _problem(table: TableSection, found: Identity) -> str | None:
    """What is wrong with one table or partition."""
    name = sql_name((found.schema, found.table))
    if found.kind not in _TABLE_KINDS:
        return f"{name} is no table; PostgreSQL's log has the changes of tables only"
    if found.persistence != "p":
        return f"{name} is not in PostgreSQL's log; ALTER TABLE {name} SET LOGGED"
    absent = [column for column in table.key if column not in found.columns]
    if absent:
        return f"{name} has no column {listed(absent)}; let `key` name columns that it has"
    return _identity_problem(table, found, name) or _key_problem(table, found, name)


def _identity_problem(table: TableSection, found: Identity, name: str) -> str | None:
    """What is wrong with the columns that the log has of an old row."""
    full = f"ALTER TABLE {name} REPLICA IDENTITY FULL"
    default = f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT"
    needs_full = table.key_from == "row" or not found.primary_key or not found.immediate
    if found.identity == "i":
        return (
            f"{name} has REPLICA IDENTITY USING INDEX, with which Debezium sends broken keys; "
            f"{full if needs_full else default}"
        )
    if table.replica_identity == "full" and found.identity != "f":
        return f'{name} has no whole old rows in the log, as replica_identity = "full" says; {full}'
    if needs_full and found.identity != "f":
        if table.key_from == "row":
            return f'{name}: key_from = "row" needs the old values of every row; {full}'
        if found.primary_key:
            return f"{name}: its primary key is deferrable, and then identifies nothing; {full}"
        return f'{name} has no primary key; add one, or set key_from = "row" and {full}'
    if found.identity == "n":
        return f"{name} has REPLICA IDENTITY NOTHING: updates and deletes name no row; {default}"
    return None


def _key_problem(table: TableSection, found: Identity, name: str) -> str | None:
    """What is wrong with the keys of its records."""
    if table.key_from == "row":
        return None
    if not found.primary_key:
        return (
            f'{name} has no primary key, so that its records have no key; set key_from = "row", '
            "or add one"
        )
    if set(found.primary_key) != set(table.key):
        return (
            f"{name} has the primary key {listed(found.primary_key)}, but `key` names "
            f"{listed(table.key)}; make them the same"
        )
    return None
