"""Queries PostgreSQL: for large values that Debezium left out, and for a table's replica identity."""

import re
import time
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from operators.changes.row_key import RowKey, key_values
from operators.codec.logical_types import Logical, logical_value
from operators.codec.sql_names import Origin, listed, sql_name
from operators.contract.sections import SourceSection
from operators.contract.table import TableSection
from operators.errors import FatalError, RecordError, RetriableError
from operators.postgres.hidden_changes import HIDDEN, Hidden
from operators.postgres.replica_identity import IDENTITIES, Identity, identity_problem
from operators.postgres.session import DATABASE, Session

if TYPE_CHECKING:
    from psycopg import sql

    from operators.postgres.session import Connection


_MOMENTS = {
    "date": Logical("date", "iso"),
    "time": Logical("time", "iso"),
    "timestamp": Logical("timestamp", "iso"),
    "timestamptz": Logical("zoned timestamp", "iso"),
}

_COUNTED = frozenset({*_MOMENTS, "interval"})

_NO_KEYS = frozenset({"bit", "varbit", "timetz"})
"""Types that cannot be looked up: messages lack a part that PostgreSQL compares (length, zone)."""

_VECTORS = frozenset({"vector", "halfvec"})

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")

_DESCRIBE = """
WITH RECURSIVE typed AS (
    SELECT a.attrelid, a.attname, a.atttypid AS type
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT d.attrelid, d.attname, t.typbasetype
    FROM typed d JOIN pg_catalog.pg_type t ON t.oid = d.type WHERE t.typtype = 'd'
)
SELECT c.relkind::text, d.attname::text, t.oid::int8, t.typname::text,
       coalesce(e.oid::int8, 0), coalesce(e.typname, t.typname)::text, coalesce(e.typdelim::text, ',')
FROM typed d
JOIN pg_catalog.pg_class c ON c.oid = d.attrelid
JOIN pg_catalog.pg_type t ON t.oid = d.type
LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
WHERE t.typtype <> 'd'
"""

# Transactions that write to a table: they release their locks only after the commit is visible.
_WRITERS = """
SELECT l.virtualtransaction
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = pg_catalog.current_database()
WHERE l.mode = 'RowExclusiveLock' AND l.granted AND l.relation IN (
    SELECT coalesce(p.relid, c.oid)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN LATERAL pg_catalog.pg_partition_tree(c.oid) p ON true
    WHERE n.nspname = %s AND c.relname = %s
)
"""

_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Pauses for writers, less than a second together; an undisturbed commit takes milliseconds."""


class _Type(NamedTuple):
    """A column's type; of a domain its base type.

    Attributes:
        element: OID of the type of an array's elements; 0 if it is not an array.
        item: Name of the type of the value, or of each element.
    """

    oid: int
    name: str
    element: int
    item: str
    delimiter: str


class _Relation(NamedTuple):
    kind: str
    types: Mapping[str, _Type]


class Reselector:
    """Reads columns of single rows, over a session of its own.

    Safe to share between threads. It reads the row as it is now, which may be newer than the event that
    needs the value; the change in between then follows as its own event.

    Args:
        section: Where the database is.
        wait: Sleeps for a number of seconds.

    Raises:
        FatalError: psycopg is not installed.
        ContractError: `dsn` is no connection string.
    """

    def __init__(
        self, section: SourceSection, wait: Callable[[float], object] = time.sleep
    ) -> None:
        self._session = Session(section)
        self._wait = wait
        self._connection: Connection | None = None  # the one over which `_relations` were read
        self._relations: dict[Origin, _Relation] = {}

    def select(
        self, table: TableSection, origin: Origin, row_key: RowKey, columns: Sequence[str]
    ) -> Mapping[str, Any] | None:
        """The named columns of one row, unmasked, as canonical values.

        `logical_value` in `operators.codec.logical_types` leaves them as they are, whatever the
        message's schema says. An array is a list, a vector of pgvector a list of numbers, hstore the
        text of a JSON object; a value of any other type is the text that PostgreSQL writes.

        Args:
            table: The contract's; its `key` has the order of the parts of `row_key`.
            origin: The row's table. It may be a partition, or the table that the partition belongs to.
            row_key: As Rowvec encodes it.
            columns: As the database calls them.

        Returns:
            None if the row no longer exists. That is certain once all transactions have ended that
            were writing to the table at the first look-up; one that takes longer than a second is not
            waited for.

        Raises:
            RetriableError: The database cannot be reached, or takes too long.
            FatalError: It refuses the user, or has no such database, table or column.
            RecordError: The key cannot be looked up: it is masked, is no value of its column's type,
                or names several rows.
        """
        name = sql_name(origin)
        masked = [column for column in table.key if column in table.masks]
        if masked:
            raise RecordError(
                subject=f"the row in {name}",
                cause=f"its key column '{masked[0]}' is masked, so that it cannot be asked for",
                hint=f"ALTER TABLE {name} REPLICA IDENTITY FULL, so that nothing is left out",
            )
        key = key_values(table, row_key)

        def look(connection: "Connection") -> dict[str, Any] | None:
            return self._row(connection, origin, key, columns)

        found = self._session.run(name, look)
        if found is None:
            # It may not be visible yet. Debezium reads a commit from the log, which is written before
            # the commit ends; with synchronous replication, a standby has to confirm it in between.
            self._wait_for_writers(origin)
            found = self._session.run(name, look)
        return found

    def identity_problem(self, table: TableSection, origin: Origin) -> str | None:
        """Why the log does not identify the rows of this table, with the fix; None if it does.

        Raises:
            RetriableError, FatalError: See `select`.
        """
        identities = self._session.run(
            sql_name(origin), lambda connection: connection.execute(IDENTITIES, origin).fetchall()
        )
        return identity_problem(table, origin, [Identity(*row) for row in identities])

    def hidden(self, origin: Origin) -> Hidden:
        """What a table has that its messages do not show.

        Raises:
            RetriableError, FatalError: See `select`.
        """
        found = self._session.run(
            sql_name(origin), lambda connection: connection.execute(HIDDEN, origin).fetchone()
        )
        return Hidden() if found is None else Hidden(*found)

    def close(self) -> None:
        """Close the session's connection; the next query opens another."""
        self._session.close()

    def _wait_for_writers(self, origin: Origin) -> None:
        """Wait for transactions that write to a table, but not for long: they may take hours."""

        def ask(connection: "Connection") -> set[str]:
            return {writer for (writer,) in connection.execute(_WRITERS, origin)}

        name = sql_name(origin)
        writers = self._session.run(name, ask)
        for pause in _PAUSES_S:
            if not writers:
                break
            self._wait(pause)
            writers &= self._session.run(name, ask)

    def _row(
        self, connection: "Connection", origin: Origin, key: dict[str, str], columns: Sequence[str]
    ) -> dict[str, Any] | None:
        names = [*columns, *key]
        relation = self._relation(connection, origin, names)
        types = [relation.types[name] for name in names]
        found = connection.execute(_statement(origin, relation, names, key))
        if [c.type_code for c in found.description or ()] != [_selected_as(t) for t in types]:
            del self._relations[origin]
            raise RetriableError(subject=sql_name(origin), cause="its columns are being altered")
        rows = found.fetchall()
        if len(rows) > 1:
            raise RecordError(
                subject=f"the row in {sql_name(origin)}",
                cause="several rows have its key, so that it cannot be told which one is meant",
                hint=f"make {listed(key)} unique, or let `key` name the columns that are",
            )
        if not rows:
            return None
        return {
            name: _value(value, type_)
            for name, value, type_ in zip(columns, rows[0], types, strict=False)
        }

    def _relation(
        self, connection: "Connection", origin: Origin, names: Sequence[str]
    ) -> _Relation:
        """The table's types, read once per connection, and again for a column that is not known."""
        if connection is not self._connection:
            self._connection, self._relations = connection, {}
        relation = self._relations.get(origin)
        if relation is None or not relation.types.keys() >= set(names):
            relation = self._relations[origin] = _described(connection, origin)
        missing = [name for name in names if name not in relation.types]
        if missing:
            raise FatalError(
                subject=f"{sql_name(origin)} in {DATABASE}",
                cause=f"it has no column {listed(missing)}",
                hint="if it was dropped or renamed, correct the contract's `key`, `text` and `columns`",
            )
        return relation


def _described(connection: "Connection", origin: Origin) -> _Relation:
    from psycopg.types import TypeInfo

    types: dict[str, _Type] = {}
    found = connection.execute(_DESCRIBE, origin).fetchall()
    for _, column, *rest in found:
        known = types[column] = _Type(*rest)
        if known.element and connection.adapters.types.get(known.oid) is None:
            # An array of an extension's type, an enum, a domain: its elements are text.
            TypeInfo(known.name, known.element, known.oid, delimiter=known.delimiter).register(
                connection
            )
    if not found:
        raise FatalError(
            subject=f"{sql_name(origin)} in {DATABASE}",
            cause="there is no such table",
            hint="make dsn in [source] name the database that Debezium reads",
        )
    return _Relation(found[0][0], types)


def _statement(
    origin: Origin, relation: _Relation, names: Sequence[str], key: Mapping[str, str]
) -> "sql.Composed":
    """The query for one row. Its literals are untyped: each takes the type of its column."""
    from psycopg import sql

    return sql.SQL("SELECT {} FROM {}{} WHERE {} LIMIT 2").format(
        sql.SQL(", ").join(
            sql.Identifier(name)
            + sql.SQL("::json" if relation.types[name].name == "hstore" else "")
            for name in names
        ),
        # Without the rows of tables that inherit from it, which are in topics of their own.
        sql.SQL("ONLY " if relation.kind == "r" else ""),
        sql.Identifier(*origin),
        sql.SQL(" AND ").join(
            sql.Identifier(column)
            + sql.SQL(" = ")
            + sql.Literal(_key_text(relation.types[column].name, part, column, origin))
            for column, part in key.items()
        ),
    )


def _key_text(type_: str, part: str, column: str, origin: Origin) -> str:
    """A part of a key as PostgreSQL reads it.

    Raises:
        RecordError: The text does not say which value is meant, so PostgreSQL might read another one.
    """
    hint = "say in the table's `encodings` how the column is written"
    if type_ in _NO_KEYS:
        hint = f"ALTER TABLE {sql_name(origin)} REPLICA IDENTITY FULL, so that nothing is left out"
    elif type_ == "bytea":
        with suppress(ValueError):
            return "\\x" + b64decode(part, validate=True).hex()
    elif type_ not in _COUNTED or not _NUMBER.fullmatch(part):
        return part
    raise RecordError(
        subject=f"the row in {sql_name(origin)}",
        cause=f"its key column '{column}' is of type {type_}, and how it is written does not say "
        "which value is meant",
        hint=hint,
    )


def _selected_as(type_: _Type) -> int:
    return 114 if type_.name == "hstore" else type_.oid  # json


def _value(value: Any, type_: _Type) -> Any:
    if isinstance(value, list):
        return [_value(each, type_) for each in value]
    if type_.item in _VECTORS and isinstance(value, str):
        return orjson.loads(value)
    if type_.item in _MOMENTS:
        # A text that is not ISO, such as a year BC, stays text.
        with suppress(ValueError):
            return logical_value(_MOMENTS[type_.item], value)
    return value
