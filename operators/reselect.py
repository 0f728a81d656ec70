"""Asks PostgreSQL itself: for large values that Debezium left out, and how a table names its rows.

The only module that knows psycopg. No message says what was in a row, nor the connection string.
"""

import math
import os
import re
import socket
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import orjson

from operators.contract import SourceSection
from operators.errors import ContractError, FatalError, RecordError, RetriableError, RowvecError
from operators.events import RowKey
from operators.keys import key_values
from operators.logical_types import Logical, logical_value
from operators.table import TableSection

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

T = TypeVar("T")

Origin: TypeAlias = tuple[str, str]
"""Schema and name of a table."""

_SUBJECT = "the database of [source]"
_TABLE_KINDS = ("r", "p")
_AS_PYTHON = frozenset(
    {"int2", "int4", "int8", "oid", "float4", "float8", "numeric", "bool", "bytea"}
)
"""What psycopg may convert; all else stays the text that PostgreSQL writes."""
_MOMENTS = {
    "date": Logical("date", "iso"),
    "time": Logical("time", "iso"),
    "timestamp": Logical("timestamp", "iso"),
    "timestamptz": Logical("zoned timestamp", "iso"),
}
_COUNTED = frozenset({*_MOMENTS, "interval"})
_NO_KEYS = frozenset({"bit", "varbit", "timetz"})
"""Types of which a message does not say all that PostgreSQL compares: the length, the zone."""
_VECTORS = frozenset({"vector", "halfvec"})
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")

# What a server says while it lets nobody in has no SQLSTATE in libpq. An unknown sentence, such as a
# translated one, counts as transient: retrying is bounded.
_REFUSES_FOR_GOOD = re.compile(
    r"authentication failed|no password supplied|does not exist|pg_hba\.conf|permission denied"
    r"|not permitted to log in|certificate|does not support SSL|unsupported startup parameter"
    r"|not currently accepting connections|root\.crt|invalid (value|integer|\w+ value)",
    re.IGNORECASE,
)
_NAMES_ONLY = frozenset({"42501", "42703", "42P01", "42883"})
"""Errors whose message names tables, columns and types, and quotes no value."""

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

_IDENTITIES = """
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
       c.relreplident::text, coalesce(p.columns, '{}'), coalesce(p.immediate, false),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM (
    SELECT t.oid, 0 AS depth FROM pg_catalog.pg_class t
    JOIN pg_catalog.pg_namespace s ON s.oid = t.relnamespace
    WHERE s.nspname = %(schema)s AND t.relname = %(table)s
    UNION
    SELECT l.relid, l.level FROM pg_catalog.pg_class t
    JOIN pg_catalog.pg_namespace s ON s.oid = t.relnamespace,
    pg_catalog.pg_partition_tree(t.oid) l
    WHERE s.nspname = %(schema)s AND t.relname = %(table)s AND t.relkind = 'p' AND l.isleaf
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


class _Type(NamedTuple):
    """A column's type below its domains.

    Attributes:
        element: OID of the type of an array's elements; 0 where it is no array.
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


class _Identity(NamedTuple):
    """How a table, or a partition of it, names its rows in the log."""

    schema: str
    table: str
    kind: str
    persistence: str
    identity: str
    primary_key: list[str]
    immediate: bool
    columns: list[str]


class Reselector:
    """Reads columns of single rows over one connection of its own, which it opens when it is needed.

    Safe to share between threads, which then take turns. Nothing is ever written: the session is
    read only. It is one with the primary, unless the DSN's `target_session_attrs` says otherwise.
    What it reads is as new as the row is now, which may be newer than the event that asks; the
    change in between then follows as an event of its own.

    Raises:
        FatalError: psycopg is not installed.
        ContractError: `dsn` is no connection string.
    """

    def __init__(self, section: SourceSection) -> None:
        self._timeout_s = section.statement_timeout_s
        self._parameters = _parameters(section)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._relations: dict[Origin, _Relation] = {}

    def select(
        self, table: TableSection, origin: Origin, row_key: RowKey, columns: Sequence[str]
    ) -> Mapping[str, Any] | None:
        """The named columns of one row, unmasked, as canonical values.

        `operators.logical_types` has those; its `logical_value` leaves them as they are, whatever
        the message's schema says. An array is a list, a vector of pgvector a list of numbers, hstore
        the text of a JSON object; whatever has no type there is the text that PostgreSQL writes.

        Args:
            table: The contract's; its `key` has the order of the parts of `row_key`.
            origin: Where the row is. A partition may be named, or the table that it belongs to.
            row_key: As Rowvec encodes it.
            columns: As the database calls them.

        Returns:
            None if there is no such row any more.

        Raises:
            RetriableError: The database cannot be reached, or takes too long.
            FatalError: It refuses the user, or has no such database, table or column.
            RecordError: The key cannot be looked up: it is masked, is no value of its column's type,
                or names several rows.
        """
        masked = [column for column in table.key if column in table.masks]
        if masked:
            raise RecordError(
                subject=f"the row in {_shown(origin)}",
                cause=f"its key column '{masked[0]}' is masked, so that it cannot be asked for",
                hint=f"ALTER TABLE {_shown(origin)} REPLICA IDENTITY FULL, so that nothing is left out",
            )
        key = key_values(table, row_key)
        return self._run(origin, lambda connection: self._row(connection, origin, key, columns))

    def identity_problem(self, table: TableSection, origin: Origin) -> str | None:
        """Why the changes of this table cannot be told apart by row, with the fix; None if they can.

        Of a partitioned table every partition is looked at, since PostgreSQL takes the identity of
        the partition that a row lies in.

        Raises:
            RetriableError, FatalError: As `select` does.
        """
        schema, name = origin

        def read(connection: "Connection") -> list[_Identity]:
            found = connection.execute(_IDENTITIES, {"schema": schema, "table": name})
            return [_Identity(*row) for row in found]

        identities = self._run(origin, read)
        if not identities:
            return (
                f"{_shown(origin)} is not in the database of [source]; make dsn name the database "
                "that Debezium reads"
            )
        return next(filter(None, (_problem(table, each) for each in identities)), None)

    def close(self) -> None:
        """End the session; the next question opens another."""
        with self._lock:
            self._drop()

    def _run(self, origin: Origin, ask: "Callable[[Connection], T]") -> T:
        import psycopg

        with self._lock:
            try:
                if self._connection is None:
                    self._connection = _connect(self._parameters)
                with _deadline(self._connection, 2 * self._timeout_s + 1):
                    return ask(self._connection)
            except RowvecError:
                raise
            except psycopg.Error as error:
                meant = _meaning(error, origin)
                if not isinstance(meant, RecordError):
                    self._drop()
                # Not `from error`: PostgreSQL's messages quote values.
                raise meant from None
            except BaseException:
                self._drop()
                raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._relations.clear()
        if connection is not None:
            with suppress(Exception):
                connection.close()

    def _row(
        self, connection: "Connection", origin: Origin, key: dict[str, str], columns: Sequence[str]
    ) -> dict[str, Any] | None:
        names = [*columns, *key]
        relation = self._relation(connection, origin, names)
        types = [relation.types[name] for name in names]
        found = connection.execute(_statement(origin, relation, names, key))
        if [c.type_code for c in found.description or ()] != [_selected_as(t) for t in types]:
            del self._relations[origin]
            raise RetriableError(subject=_shown(origin), cause="its columns are being altered")
        rows = found.fetchall()
        if len(rows) > 1:
            raise RecordError(
                subject=f"the row in {_shown(origin)}",
                cause="several rows have its key, so that it cannot be told which one is meant",
                hint=f"make {_listed(key)} unique, or let `key` name the columns that are",
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
        """The table's types; asked for once per connection, and again for a column that is new."""
        relation = self._relations.get(origin)
        if relation is None or not relation.types.keys() >= set(names):
            relation = self._relations[origin] = _described(connection, origin)
        missing = [name for name in names if name not in relation.types]
        if missing:
            raise FatalError(
                subject=f"{_shown(origin)} in {_SUBJECT}",
                cause=f"it has no column {_listed(missing)}",
                hint="if it was dropped or renamed, correct the contract's `key`, `text` and `columns`",
            )
        return relation


def _parameters(section: SourceSection) -> dict[str, Any]:
    """What to connect with: the DSN, and what makes a session safe and its text always the same."""
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise FatalError(
            subject="[source] in the contract",
            cause=f"reading from PostgreSQL needs psycopg, which cannot be imported ({error})",
            hint='install it: pip install "rowvec[postgres]"',
        ) from None
    try:
        given = conninfo_to_dict(section.dsn.get_secret_value())
    except ProgrammingError:
        given = None  # its message quotes what stands in the place of a keyword
    if given is None or _is_misread(given):
        raise ContractError(
            subject="dsn in [source]",
            cause="it is no connection string of PostgreSQL",
            hint="write postgresql://user:password@host:5432/database, with whatever is no letter or "
            "digit in the password percent-encoded, or host=… port=… user=… password=… dbname=…",
        )
    timeout = f"-c statement_timeout={max(1, round(section.statement_timeout_s * 1000))}"
    options = (given.get("options"), timeout, "-c default_transaction_read_only=on", *_SETTINGS)
    return {
        "application_name": "rowvec",
        # A standby may lack the change that is asked about, and its row seem gone.
        "target_session_attrs": "primary",
        "connect_timeout": max(2, math.ceil(section.statement_timeout_s)),
        **given,
        "client_encoding": "utf8",
        "options": " ".join(str(option) for option in options if option),
    }


_SETTINGS = (
    "-c datestyle=ISO",
    "-c intervalstyle=iso_8601",
    "-c timezone=UTC",
    "-c bytea_output=hex",
)


def _is_misread(given: Mapping[str, Any]) -> bool:
    """Whether a part of a password that is not percent-encoded was taken for a host, port or name."""
    host, database = str(given.get("host") or ""), str(given.get("dbname") or "")
    ports = str(given.get("port") or "").split(",")
    return (
        "@" in host.removeprefix("@")  # one may begin the name of an abstract socket
        or "@" in database
        or any(port and not port.isdecimal() for port in ports)
    )


def _connect(parameters: Mapping[str, Any]) -> "Connection":
    import psycopg
    from psycopg.types.string import TextLoader

    try:
        # A prepared statement would not survive a pooler between us and the server.
        connection = psycopg.connect(**parameters, autocommit=True, prepare_threshold=None)
    except (psycopg.Error, UnicodeError) as error:
        message = " ".join(str(error).split())
        secrets = (parameters.get("password"), parameters.get("sslpassword"))
        if any(secret and str(secret) in message for secret in secrets):
            message = "it refuses the connection"
        kind = FatalError if _REFUSES_FOR_GOOD.search(message) else RetriableError
        raise kind(
            subject=_SUBJECT,
            cause=message[:200].rstrip(" .:-"),
            hint="check dsn in [source] and that it is up",
        ) from None
    for known in psycopg.postgres.types:
        if known.name not in _AS_PYTHON:
            connection.adapters.register_loader(known.oid, TextLoader)
    return connection


@contextmanager
def _deadline(connection: "Connection", seconds: float) -> Iterator[None]:
    """Ends the connection if the server says nothing at all: frozen, it keeps no time limit either."""
    # A descriptor of its own: the connection's may be closed, and its number be another's by then.
    peer = socket.socket(fileno=os.dup(connection.fileno()))
    timer = threading.Timer(seconds, _shut, [peer])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        peer.close()


def _shut(peer: socket.socket) -> None:
    with suppress(OSError):
        peer.shutdown(socket.SHUT_RDWR)


def _meaning(error: "psycopg.Error", origin: Origin) -> RowvecError:
    """What to do about an error of a query; what is not known is transient, as retrying is bounded."""
    import psycopg

    state = error.sqlstate or ""
    # Without a state, it is psycopg that cannot write the key: PostgreSQL's text holds no NUL.
    if state.startswith("22") or (not state and isinstance(error, psycopg.DataError)):
        return RecordError(
            subject=f"the row in {_shown(origin)}",
            cause=f"its key is no value of the column's type ({state or 'NUL'})",
            hint="say in the table's `encodings` how the key is written",
        )
    if state == "57014":
        return RetriableError(
            subject=_SUBJECT,
            cause=f"it was asked for a row of {_shown(origin)} and ran into its time limit",
            hint="index the key's columns, or raise statement_timeout_s in [source]",
        )
    cause = f"it refuses a query of {_shown(origin)} ({state})"
    if state in _NAMES_ONLY and error.diag.message_primary:
        cause = error.diag.message_primary
    if state[:2] in ("0A", "25", "28", "3D", "3F", "42"):
        return FatalError(
            subject=_SUBJECT, cause=cause, hint="grant the user of dsn SELECT on the table"
        )
    return RetriableError(
        subject=_SUBJECT,
        cause=cause if state else "the connection broke",
        hint="check that it is up and not overloaded",
    )


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
            subject=f"{_shown(origin)} in {_SUBJECT}",
            cause="there is no such table",
            hint="make dsn in [source] name the database that Debezium reads",
        )
    return _Relation(found[0][0], types)


def _statement(
    origin: Origin, relation: _Relation, names: Sequence[str], key: Mapping[str, str]
) -> "sql.Composed":
    """The query of one row. Its literals have no type: each takes its column's, and so its index."""
    from psycopg import sql

    return sql.SQL("SELECT {} FROM {}{} WHERE {} LIMIT 2").format(
        sql.SQL(", ").join(
            sql.Identifier(name)
            + sql.SQL("::json" if relation.types[name].name == "hstore" else "")
            for name in names
        ),
        # Not the rows of tables that inherit from it: those are on topics of their own.
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
        RecordError: It is no text of that type, but PostgreSQL might take it for another value.
    """
    hint = "say in the table's `encodings` how the column is written"
    if type_ in _NO_KEYS:
        hint = f"ALTER TABLE {_shown(origin)} REPLICA IDENTITY FULL, so that nothing is left out"
    elif type_ == "bytea":
        with suppress(ValueError):
            return "\\x" + b64decode(part, validate=True).hex()
    elif type_ not in _COUNTED or not _NUMBER.fullmatch(part):
        return part
    raise RecordError(
        subject=f"the row in {_shown(origin)}",
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
        # What is not ISO, a year BC, stays text.
        with suppress(ValueError):
            return logical_value(_MOMENTS[type_.item], value)
    return value


def _problem(table: TableSection, found: _Identity) -> str | None:
    """What is wrong with the identity of one table or partition."""
    name = _shown((found.schema, found.table))
    if found.kind not in _TABLE_KINDS:
        return f"{name} is no table; PostgreSQL's log has the changes of tables only"
    if found.persistence != "p":
        return f"{name} is not in PostgreSQL's log; ALTER TABLE {name} SET LOGGED"
    absent = [column for column in table.key if column not in found.columns]
    if absent:
        return f"{name} has no column {_listed(absent)}; let `key` name columns that it has"
    if found.identity == "i":
        return (
            f"{name} has REPLICA IDENTITY USING INDEX, with which Debezium sends broken keys; "
            f"ALTER TABLE {name} REPLICA IDENTITY {'FULL' if _needs_full(table, found) else 'DEFAULT'}"
        )
    if _needs_full(table, found) and found.identity != "f":
        if table.key_from == "row":
            why = 'key_from = "row" needs the old values of every row'
        elif found.primary_key:
            why = "its primary key is deferrable, and then identifies nothing"
        else:
            return (
                f'{name} has no primary key; add one, or set key_from = "row" and '
                f"ALTER TABLE {name} REPLICA IDENTITY FULL"
            )
        return f"{name}: {why}; ALTER TABLE {name} REPLICA IDENTITY FULL"
    if found.identity == "n":
        return (
            f"{name} has REPLICA IDENTITY NOTHING, so that updates and deletes name no row; "
            f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT"
        )
    if table.key_from == "row":
        return None
    if not found.primary_key:
        return (
            f'{name} has no primary key, so that its records have no key; set key_from = "row", '
            "or add one"
        )
    if set(found.primary_key) != set(table.key):
        return (
            f"{name} has the primary key {_listed(found.primary_key)}, but `key` names "
            f"{_listed(table.key)}; make them the same"
        )
    return None


def _needs_full(table: TableSection, found: _Identity) -> bool:
    """Whether nothing less than whole old rows identifies them."""
    return table.key_from == "row" or not found.primary_key or not found.immediate


def _listed(names: Sequence[str] | Mapping[str, str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _shown(origin: Origin) -> str:
    """A table's name as one writes it in SQL."""
    quoted = (
        part if _PLAIN_NAME.fullmatch(part) else '"' + part.replace('"', '""') + '"'
        for part in origin
    )
    return ".".join(quoted)
