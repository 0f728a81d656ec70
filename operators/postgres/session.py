"""A read-only session with PostgreSQL, whose errors say what the flow has to do.

No error message contains values of a row, or the connection string.
"""

import math
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from operators.contract.sections import SourceSection
from operators.errors import ContractError, FatalError, RecordError, RetriableError, RowvecError

if TYPE_CHECKING:
    import psycopg

    Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


T = TypeVar("T")

DATABASE = "the database of [source]"

_AS_PYTHON = frozenset(
    {"int2", "int4", "int8", "oid", "float4", "float8", "numeric", "bool", "bytea"}
)
"""Types that psycopg may convert; values of all others stay the text that PostgreSQL writes."""

_SETTINGS = (
    "-c default_transaction_read_only=on",
    "-c datestyle=ISO",
    "-c intervalstyle=iso_8601",
    "-c timezone=UTC",
    "-c bytea_output=hex",
)

# libpq gives no SQLSTATE for an error while connecting, so its message is matched. An unknown one, such
# as a translated one, counts as transient: retries are bounded.
_REFUSES_FOR_GOOD = re.compile(
    r"authentication failed|no password supplied|does not exist|pg_hba\.conf|permission denied"
    r"|not permitted to log in|certificate|does not support SSL|unsupported startup parameter"
    r"|not currently accepting connections|root\.crt|invalid (value|integer|\w+ value)",
    re.IGNORECASE,
)

_NAMES_ONLY = frozenset({"42501", "42703", "42P01", "42883"})
"""Errors whose message names tables, columns and types, and quotes no value."""


class Session:
    """One connection, opened when it is first needed, and again after it broke.

    Safe to share between threads, which take turns. It never writes. It connects to the primary, unless
    the DSN's `target_session_attrs` says otherwise. Numbers, booleans, bytes and lists come as
    Python's, every other value as the text that PostgreSQL writes by default.

    Raises:
        FatalError: psycopg is not installed.
        ContractError: `dsn` is no connection string.
    """

    def __init__(self, section: SourceSection) -> None:
        self._timeout_s = section.statement_timeout_s
        self._parameters = _parameters(section)
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def run(self, table: str, ask: "Callable[[Connection], T]") -> T:
        """The result of `ask`, called with the connection.

        Args:
            table: The table that it queries, as error messages name it.
            ask: Runs queries; no other thread uses the connection meanwhile.

        Raises:
            RetriableError: The database cannot be reached, or takes too long.
            FatalError: It refuses the user, or the query.
            RecordError: A value in a query does not have its column's type.
        """
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
                meant = _meaning(error, table)
                if not isinstance(meant, RecordError):
                    self._drop()
                # Not `from error`: PostgreSQL's messages quote values.
                raise meant from None
            except BaseException:
                self._drop()
                raise

    def close(self) -> None:
        """Close the connection; the next `run` opens another."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()


def _parameters(section: SourceSection) -> dict[str, Any]:
    """Connection parameters: the DSN's, and those that make it read-only and fix its text formats."""
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
        given = None  # its message may quote a part of the password
    if given is None or _is_misread(given):
        raise ContractError(
            subject="dsn in [source]",
            cause="it is no connection string of PostgreSQL",
            hint="write postgresql://user:password@host:5432/database, with whatever is no letter or "
            "digit in the password percent-encoded, or host=… port=… user=… password=… dbname=…",
        )
    timeout = f"-c statement_timeout={max(1, round(section.statement_timeout_s * 1000))}"
    options = (given.get("options"), timeout, *_SETTINGS)
    return {
        "application_name": "rowvec",
        # A standby may lag behind, so that a new row seems not to exist.
        "target_session_attrs": "primary",
        "connect_timeout": max(2, math.ceil(section.statement_timeout_s)),
        **given,
        "client_encoding": "utf8",
        "options": " ".join(str(option) for option in options if option),
    }


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
            subject=DATABASE,
            cause=message[:200].rstrip(" .:-"),
            hint="check dsn in [source] and that it is up",
        ) from None
    with ExitStack() as failing:
        failing.callback(connection.close)
        for known in psycopg.postgres.types:
            if known.name not in _AS_PYTHON:
                connection.adapters.register_loader(known.oid, TextLoader)
        failing.pop_all()
    return connection


@contextmanager
def _deadline(connection: "Connection", seconds: float) -> Iterator[None]:
    """Shut the connection down after `seconds`: a frozen server does not keep its own time limit."""
    # A duplicate, because the connection may have closed its own, and the number may be reused.
    with socket.socket(fileno=os.dup(connection.fileno())) as peer:
        timer = threading.Timer(seconds, _shut, [peer])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _shut(peer: socket.socket) -> None:
    with suppress(OSError):
        peer.shutdown(socket.SHUT_RDWR)


def _meaning(error: "psycopg.Error", table: str) -> RowvecError:
    """Rowvec's error for that of a query. An unknown one counts as transient: retries are bounded."""
    import psycopg

    state = error.sqlstate or ""
    # Without a state it is psycopg's own: the key has a NUL, which PostgreSQL's text cannot hold.
    if state.startswith("22") or (not state and isinstance(error, psycopg.DataError)):
        return RecordError(
            subject=f"the row in {table}",
            cause=f"its key is no value of the column's type ({state or 'NUL'})",
            hint="say in the table's `encodings` how the key is written",
        )
    if state == "57014":
        return RetriableError(
            subject=DATABASE,
            cause=f"it was asked for a row of {table} and ran into its time limit",
            hint="index the key's columns, or raise statement_timeout_s in [source]",
        )
    cause = f"it refuses a query of {table} ({state})"
    if state in _NAMES_ONLY and error.diag.message_primary:
        cause = error.diag.message_primary
    if state[:2] in ("0A", "25", "28", "3D", "3F", "42"):
        return FatalError(
            subject=DATABASE, cause=cause, hint="grant the user of dsn SELECT on the table"
        )
    return RetriableError(
        subject=DATABASE,
        cause=cause if state else "the connection broke",
        hint="check that it is up and not overloaded",
    )
