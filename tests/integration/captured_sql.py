"""The expected contents of a collection after each captured case, from the database, not the messages.

For PostgreSQL, the SQL is run again and every table is read after every case, as the text that the
server sends. No MySQL server comes as a package, so the effect of its statements is written by hand in
`mysql_expected.json` beside the corpus. Values are stored by the rules of
`operators.rendering.field_values`, computed here from SQL's text without any code of Rowvec.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import psycopg

from flows.embedded.postgres import Postgres
from tests.capture.capture import session_of
from tests.captured import DIRECTORY, Case, Variant
from tests.integration.captured_tables import (
    TABLES,
    Flavour,
    Table,
    field_of,
    mirrored,
    text_columns,
)


class Value(NamedTuple):
    """A value as the server prints it; None is NULL."""

    type: str
    text: str | None


SqlRow: TypeAlias = Mapping[str, Value]

State: TypeAlias = Mapping[str, Sequence[SqlRow]]
"""Table → its rows."""

Stored: TypeAlias = dict[str, Any]
"""The expected text and mirrored fields of one row."""


# The contents of the databases


class PostgresHistory:
    """Runs a variant's SQL in a new database, case by case.

    Args:
        variant: Its DDL is run at once.
        server: May hold the databases of other histories.
    """

    def __init__(self, variant: Variant, server: Postgres) -> None:
        name = re.sub(r"\W", "_", variant.name)
        with closing(server.connect()) as session:
            session.execute(f'drop database if exists "{name}" with (force)'.encode())
            session.execute(f'create database "{name}"'.encode())
        self.dsn = server.dsn.replace("dbname=postgres", f"dbname={name}")
        self._session = psycopg.connect(self.dsn, autocommit=True)
        self._session.execute("set timezone = 'UTC'")
        for statement in variant.ddl:
            self._session.execute(statement.encode())

    def after(self, case: Case) -> State:
        """Run the next case and read all tables.

        Raises:
            psycopg.Error: A statement of the corpus failed.
        """
        _run(case, self._session, self.dsn)
        return _all_tables(self._session)

    def close(self) -> None:
        self._session.close()


def postgres_states(variant: Variant, server: Postgres) -> dict[str, State]:
    """All tables after each case."""
    with closing(PostgresHistory(variant, server)) as history:
        return {case.name: history.after(case) for case in variant.cases}


def _run(case: Case, session: psycopg.Connection, dsn: str) -> None:
    sessions: dict[str, psycopg.Connection] = {}
    try:
        for statement in case.sql:
            name, text = session_of(statement)
            if name and name not in sessions:
                sessions[name] = psycopg.connect(dsn, autocommit=True)
            (sessions[name] if name else session).execute(text.encode())
    finally:
        for other in sessions.values():
            other.close()


def _all_tables(session: psycopg.Connection) -> State:
    types: dict[int, str] = dict(
        session.execute("select oid::int8, typname::text from pg_type").fetchall()
    )
    tables = session.execute(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace"
        " and relkind in ('r', 'p')"
    ).fetchall()
    return {name: _rows(session, name, types) for (name,) in tables}


def _rows(session: psycopg.Connection, table: str, types: Mapping[int, str]) -> list[SqlRow]:
    cursor = session.execute(f'select * from "{table}"'.encode())
    # Text, because psycopg's types hold neither infinite dates nor years before 1.
    result, columns = cursor.pgresult, cursor.description
    assert result is not None
    assert columns is not None
    return [
        {
            column.name: Value(types[column.type_code], _decoded(result.get_value(row, number)))
            for number, column in enumerate(columns)
        }
        for row in range(result.ntuples)
    ]


def _decoded(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode()


def mysql_states(variant: Variant, directory: Path = DIRECTORY) -> dict[str, State]:
    """All tables after each of the variant's cases."""
    told = json.loads((directory / "mysql_expected.json").read_text("utf-8"))
    types: Mapping[str, Mapping[str, str]] = told["types"]
    tables: dict[str, dict[str, dict[str, str | None]]] = {}
    states: dict[str, State] = {}
    for case in variant.cases:
        for table, changes in told["changes"][case.name].items():
            rows = tables.setdefault(table, {})
            for key, columns in changes.items():
                _change(rows, key, columns, types[table])
        states[case.name] = {
            table: [
                {column: Value(types[table][column], text) for column, text in row.items()}
                for row in rows.values()
            ]
            for table, rows in tables.items()
        }
    return states


def _change(
    rows: dict[str, dict[str, str | None]],
    key: str,
    columns: Mapping[str, str | None] | None,
    types: Mapping[str, str],
) -> None:
    """Update a row, or delete it (`columns` is None); with the key `*`, all existing rows."""
    for each in [*rows] if key == "*" else [key]:
        if columns is None:
            del rows[each]
        else:
            rows[each] = {**dict.fromkeys(types), **rows.get(each, {}), **columns}


# The same as stored in a collection


def stored(flavour: Flavour, name: str, rows: Sequence[SqlRow]) -> list[Stored]:
    """The expected contents of a table's collection for these rows."""
    table = TABLES[flavour.database][name]
    return [stored_row(flavour, table, row) for row in rows if not _is_deleted(table, row)]


def stored_row(flavour: Flavour, table: Table, row: SqlRow) -> Stored:
    """The expected contents for one row."""
    text = "".join(
        literal + ("" if name is None or name not in row else _shown(row[name]))
        for literal, name in text_columns(table)
    )
    absent = Value("text", None)  # A later statement adds this column.
    fields = {
        field_of(name): as_field(row.get(name, absent), column.field)
        for name, column in mirrored(flavour, table).items()
    }
    return {"text": text, **fields}


def _is_deleted(table: Table, row: SqlRow) -> bool:
    column = table.more.get("soft_delete")
    return column is not None and row[column].text == "t"


def _shown(value: Value) -> str:
    return "" if value.text is None else as_text(value)


def as_text(value: Value) -> str:
    """A value that is not NULL, as text for a template or a varchar field."""
    assert value.text is not None
    text = value.text
    match value.type:
        case "money":
            return text.replace("$", "").replace(",", "")
        case "bool":
            return {"t": "true", "f": "false"}[text]
        case "bytea":
            return base64.b64encode(bytes.fromhex(text.removeprefix("\\x"))).decode()
        case "bit" | "varbit":
            return str(int(text or "0", 2))
        case "timestamptz" | "timestamp" | "date" | "time" | "timetz":
            return _iso(value.type, text)
        case _:
            return text


@cache
def as_field(value: Value, field: str) -> Any:
    """A value as stored in a mirrored field."""
    if value.text is None:
        return None
    match field:
        case "varchar":
            return as_text(value)
        case "int32" | "int64":
            return _count(value)
        case "bool":
            return value.text in ("t", "1")
        case "double":
            number = float(value.text)
            # Milvus cannot filter by NaN.
            return number if abs(number) < float("inf") else None
        case "json":
            return _as_json(value)
    raise AssertionError(field)


_YEAR = re.compile(r"(\d+)(.*?)( BC)?$")


def _iso(kind: str, text: str) -> str:
    """ISO 8601 without trailing zeros of the seconds; the session's time zone is UTC."""
    if text in ("infinity", "-infinity"):
        return text
    if kind == "time":
        return _trimmed(text)
    if kind == "timetz":
        moment = datetime.strptime(f"2000-01-02 {text}00", "%Y-%m-%d %H:%M:%S.%f%z")
        return _trimmed(moment.astimezone(UTC).strftime("%H:%M:%S.%f")) + "Z"
    match = _YEAR.match(text)
    assert match is not None
    year, rest, before = int(match[1]), match[2], match[3]
    assert year <= 9999
    year = 1 - year if before else year
    rest = rest.removesuffix("+00").replace(" ", "T")
    shown = f"{'-' if year < 0 else ''}{abs(year):04d}{rest}"
    return _trimmed(shown) + ("Z" if kind == "timestamptz" else "")


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _count(value: Value) -> int:
    """Days of a date, microseconds of a time or timestamp, else the number."""
    assert value.text is not None
    match value.type:
        case "date":
            return (date.fromisoformat(value.text) - _EPOCH.date()).days
        case "timestamp":
            return (datetime.fromisoformat(value.text + "+00:00") - _EPOCH) // _MICROSECOND
        case "timestamptz":
            return (datetime.fromisoformat(value.text + ":00") - _EPOCH) // _MICROSECOND
        case "time":
            moment = datetime.combine(_EPOCH.date(), time.fromisoformat(value.text), UTC)
            return (moment - _EPOCH) // _MICROSECOND
        case "bit" | "varbit":
            return int(value.text, 2)
        case _:
            return int(value.text)


_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}]+)')
_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)')


def _as_json(value: Value) -> Any:
    assert value.text is not None
    if value.type in ("json", "jsonb", "vector"):
        return json.loads(value.text)
    if value.type == "hstore":
        return {_unquoted(k): None if v is None else _unquoted(v) for k, v in _pairs(value.text)}
    assert value.type.startswith("_"), value.type
    return [
        None
        if found[1] is None and found[2] == "NULL"
        else _inside_json(
            Value(value.type[1:], found[2] if found[1] is None else _unquoted(found[1]))
        )
        for found in _ELEMENT.finditer(value.text)
    ]


def _pairs(text: str) -> list[tuple[str, str | None]]:
    return [(found[1], found[2]) for found in _PAIR.finditer(text)]


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _inside_json(value: Value) -> Any:
    assert value.text is not None
    if value.type in ("int4", "int8"):
        return int(value.text)
    if value.type in ("float4", "float8"):
        return float(value.text)
    if value.type == "bool":
        return value.text == "t"
    if value.type == "numeric":
        return f"{Decimal(value.text):f}"
    return as_text(value)
