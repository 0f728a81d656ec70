"""The order of changes: an envelope's `source` block → a position in the database's own log.

A position is text of fixed width that sorts in the order in which the changes of a row happened.
Changes at the same position are ordered by their Kafka offset. So a position may be coarse, but it
must never fall from one change of a row to the next, or the newer one is dropped as stale. That is
why some fields of `source` are not used, though they look like an order.

| connector | position | not used, because it can fall |
|---|---|---|
| postgresql | end of the last commit and own LSN (`sequence`, `lsn`), see `_postgresql` | |
| mysql, mariadb | binlog file and `pos` | `row`, see `_mysql` |
| sqlserver, db2 | `commit_lsn` | `change_lsn`, see `_by_commit` |
| oracle | `commit_scn` and `scn`; for a snapshot read its SCN and 0 | `ssn`, see `_oracle` |
| mongodb | none | `ts_ms`, a server's clock (`wallTime`), and with it `ord` |

Changes without a position are ordered by Kafka offset alone. A coarse position has a price: if the
connector dies and sends a stretch of the log again, changes that share a position (such as two of one
row in one transaction) can show the older version for a moment before the newer one returns.

Positions of one table are comparable only within one log: after a failover to a server with a log of
its own (MySQL's binlog files, a PostgreSQL restored from a dump), raise the table's `generation`.
GTIDs say whether two MySQL servers share a history, but not in which order two changes happened, so
they are not part of the position.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from operators.errors import RecordError

Source = Mapping[str, Any]

SNAPSHOT_READS = frozenset(
    {"true", "first", "first_in_data_collection", "last_in_data_collection", "last"}
)
"""Values of `source.snapshot` for a row that an initial or blocking snapshot read.

Streamed changes have them too, once Debezium was restarted in the middle of an incremental snapshot.
"""

POSITION_LIMIT = 2**64
"""Every number of a position is below it, so that it has a fixed width."""

_BINLOG_NUMBER = re.compile(r"\.([0-9]{1,15})\Z")

# SQL Server's has 10 bytes, Db2's 10 or 16.
_LSN = re.compile(r"([0-9a-fA-F]{8}):([0-9a-fA-F]{8}):([0-9a-fA-F]{4,16})\Z")

_LSN_DIGITS = 32


def position_of(source: Source, *, streamed: bool = False) -> str | None:
    """The position of a change, or None if its source has none.

    Args:
        source: The envelope's.
        streamed: It is an insert, update, delete or TRUNCATE, and not a snapshot read, whatever
            `source` says.

    Raises:
        RecordError: The block has the fields of a position, but their values are unusable, or they are
            those of several databases.
    """
    connector = source.get("connector")
    order = _ORDERS.get(connector) if isinstance(connector, str) else _order_by_field(source)
    if order is None:
        return None
    if streamed and source.get("snapshot") not in (None, "false"):  # guard: streamed
        source = {**source, "snapshot": "false"}
    return order(source)


def described(source: Source) -> str:
    """How the changes of this source are ordered, as a sentence for `rowvec check`.

    Raises:
        RecordError: See `position_of`.
    """
    connector = source.get("connector")
    order = _ORDERS.get(connector) if isinstance(connector, str) else _order_by_field(source)
    if order is None or order(source) is None:
        return (
            "ordered by Kafka offset alone: changes that the connector sends again show an older "
            "version for a moment"
        )
    gtid = ", with GTIDs" if source.get("gtid") else ""
    return f"ordered by {_NAMES[order]}{gtid}"


def _order_by_field(source: Source) -> Callable[[Source], str | None] | None:
    """The order of an unwrapped row, which does not name its connector, by the fields that it has.

    A field that is null counts for nothing: ExtractNewRecordState adds `sequence` for each connector,
    and only PostgreSQL's has a value.

    Raises:
        RecordError: All fields that are there are null, or there are those of several databases.
    """
    found, named = None, False
    for order, fields, needed in _BY_FIELD:
        there = [source[field] for field in fields if field in source]
        if there:
            named = True
            usable = not needed or needed in source
            if usable and any(value is not None for value in there):
                if found is not None:  # guard: one-order
                    raise _no_order("are those of several databases", source)
                found = order
    if found is None and named:  # guard: order-is-null
        raise _no_order("are null, or not all that it takes", source)
    return found


def _no_order(what: str, source: Source) -> RecordError:
    there = [field for _, fields, _ in _BY_FIELD for field in fields if field in source]
    return RecordError(
        subject="value",
        cause=f"the fields that say where it lies in the database's log {what}: "
        + ", ".join(f"'{field}'" for field in there),
        hint="let ExtractNewRecordState add op and those of this database alone: lsn and "
        "source.sequence (PostgreSQL), file and pos (MySQL, MariaDB), commit_lsn (SQL Server, Db2), "
        "commit_scn and scn (Oracle), none (others)",
    )


def _postgresql(source: Source) -> str | None:
    """The pair that Debezium keeps in `source.sequence`.

    The end of the last commit before the change is too coarse by itself. The change's own LSN by
    itself is wrong against snapshots: a transaction that wrote before a snapshot read the row, and
    committed after, has the smaller LSN and the newer row. In the pair it sorts later, because its
    commit is later.

    - An incremental read carries the pair of the event that closed its window, and sorts with it.
    - Any other snapshot reads the state between two commits: it sorts after everything up to the last
      commit, and before everything streamed after it, so its own LSN counts as 0. The initial one has
      no last commit yet; the LSN that it starts from is used instead.
    - The first transaction after that has no last commit either; its own LSN is used instead.
    """
    own = source.get("lsn")
    sequence = source.get("sequence")
    commit, last = (None, None) if sequence is None else _sequence(sequence)
    if own is None:
        own = last
    if own is None:
        return None
    if type(own) is not int or not 0 <= own < POSITION_LIMIT:
        raise _unusable("lsn")
    if commit is None:
        commit = own
    elif not 0 <= commit < POSITION_LIMIT:
        raise _unusable("sequence")
    snapshot = source.get("snapshot")
    if isinstance(snapshot, str) and snapshot in SNAPSHOT_READS:
        own = 0  # guard: snapshot-read
    return f"{commit:016x}.{own:016x}"  # guard: commit-first


def _sequence(sequence: Any) -> tuple[int | None, int | None]:
    """The two numbers of `source.sequence`, a string that holds JSON; the first may be null."""
    try:
        commit, own = orjson.loads(sequence)
        return None if commit is None else int(commit), None if own is None else int(own)
    except (orjson.JSONDecodeError, TypeError, ValueError, OverflowError):
        raise _unusable("sequence") from None


def _mysql(source: Source) -> str | None:
    """Binlog file and position of the event, without its `row`.

    `row` counts within one event, and several events of a transaction can have one position: MariaDB
    since 11.4, and MySQL with binlog_transaction_compression, write no position into events that go
    through the transaction's cache, and Debezium then repeats the last one that it saw. A later
    statement's row 0 would sort before an earlier one's row 5.

    A snapshot read has the position at which the snapshot was taken: the end of the last transaction
    that it includes, at or before the first that it does not.
    """
    file = source.get("file")
    if file is None:
        return None
    number = _BINLOG_NUMBER.search(file) if isinstance(file, str) else None
    if number is None:
        raise _unusable("file")
    return f"{int(number[1]):016x}.{_number(source, 'pos', POSITION_LIMIT):016x}"


def _by_commit(source: Source) -> str | None:
    """The LSN of the commit, which all changes of a row in one transaction share.

    `change_lsn` is SQL Server's `__$seqval`, which rises only within one command; Debezium reads the
    changes in the order of the commands (`data.query.mode=direct`, its default).
    """
    lsn = source.get("commit_lsn")
    if lsn is None:
        return None
    match = _LSN.match(lsn) if isinstance(lsn, str) else None
    if match is None:
        raise _unusable("commit_lsn")
    return "".join(match.groups()).lower().zfill(_LSN_DIGITS)


def _oracle(source: Source) -> str | None:
    """The SCNs of the commit and of the change.

    `ssn` counts only within one `rs_id`. A snapshot read has the SCN as of which it was read, and no
    commit SCN. A change that was made before that SCN, and committed after it, is newer.
    """
    own = source.get("scn")
    commit = source.get("commit_scn")
    if own is None and commit is None:
        return None
    snapshot = source.get("snapshot")
    if commit is None or (isinstance(snapshot, str) and snapshot in SNAPSHOT_READS):
        return f"{_number(source, 'scn', POSITION_LIMIT):016x}.{0:016x}"
    second = _number(source, "scn", POSITION_LIMIT, default=0)
    return f"{_number(source, 'commit_scn', POSITION_LIMIT):016x}.{second:016x}"


def _number(source: Source, field: str, limit: int, default: int | None = None) -> int:
    """A number of the block; Oracle's connector and unwrapped rows may write it as text."""
    value = source.get(field)
    if value is None and default is not None:
        return default
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < limit:
        raise _unusable(field)
    return value


def _unusable(field: str) -> RecordError:
    return RecordError(
        subject="value",
        cause=f"its source block tells no usable position ('{field}' is out of range or no position)",
        hint="Rowvec orders the changes of a row by the position in `source`; leave it as Debezium "
        "writes it",
    )


_ORDERS: Mapping[str, Callable[[Source], str | None]] = {
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mariadb": _mysql,
    "sqlserver": _by_commit,
    "db2": _by_commit,
    "oracle": _oracle,
}

_BY_FIELD: Sequence[tuple[Callable[[Source], str | None], tuple[str, ...], str]] = (
    (_postgresql, ("lsn", "sequence"), ""),
    (_mysql, ("file",), ""),
    (_by_commit, ("commit_lsn",), ""),
    # A change's own SCN does not order it against a snapshot that was read while it was open.
    (_oracle, ("commit_scn", "scn"), "commit_scn"),
)
"""For rows that ExtractNewRecordState made, which do not name their connector: each order, the fields
of which one has to have a value, and one that has to be there even if it is null ("" for none)."""

_NAMES: Mapping[Callable[[Source], str | None], str] = {
    _postgresql: "PostgreSQL's LSN",
    _mysql: "binlog file and position",
    _by_commit: "commit LSN",
    _oracle: "commit SCN and SCN",
}
