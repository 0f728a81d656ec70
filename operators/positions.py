"""The order of changes: an envelope's `source` block → a position in the database's own log.

A position is text of fixed width that sorts as the changes of a row happened. Every connector has
its own; where none can be had, the Kafka offset is all there is.

| connector | position | of a snapshot's read |
|---|---|---|
| postgresql | end of the last commit and own LSN (`sequence`, `lsn`) | see `_postgresql` |
| mysql, mariadb | binlog file, position, row | where the snapshot was taken |
| sqlserver, db2 | `commit_lsn`, `change_lsn`, `event_serial_no` | commit LSN, 0 |
| oracle | `commit_scn`, `scn`, `ssn` | SCN of the snapshot, 0 |
| mongodb | `ts_ms` of the oplog entry, `ord` | where the snapshot was taken |

Positions of one table are comparable as long as it is one log: after a failover to a server with a
log of its own (MySQL's binlog files, a PostgreSQL restored from a dump), raise the table's
`generation`. GTIDs say whether two MySQL servers share a history, but not in which order two changes
happened, so they are not part of the position.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from operators.errors import RecordError

Source = Mapping[str, Any]

SNAPSHOT_READS = frozenset(
    {"true", "first", "first_in_data_collection", "last_in_data_collection", "last"}
)
"""What `source.snapshot` says of a row that an initial or blocking snapshot read."""

_LIMIT = 2**64
_BINLOG_NUMBER = re.compile(r"\.(\d+)$")
_SQLSERVER_LSN = re.compile(r"([0-9a-fA-F]{8}):([0-9a-fA-F]{8}):([0-9a-fA-F]{4})$")


def position_of(source: Source) -> str | None:
    """The position of a change, or None where its source tells none.

    Raises:
        RecordError: The block has the fields of an order, but not what belongs into them.
    """
    order = _ORDERS.get(source.get("connector"))  # type: ignore[arg-type]
    if order is None:
        order = next((o for field, o in _BY_FIELD.items() if field in source), None)
    return None if order is None else order(source)


def described(source: Source) -> str:
    """How the changes of this source are ordered, for people."""
    if position_of(source) is None:
        return (
            "ordered by Kafka offset alone: changes that the connector sends again show an older "
            "version for a moment"
        )
    order = _ORDERS.get(source.get("connector"))  # type: ignore[arg-type]
    if order is None:
        order = next(o for field, o in _BY_FIELD.items() if field in source)
    gtid = ", with GTIDs" if source.get("gtid") else ""
    return f"ordered by {_NAMES[order]}{gtid}"


def _postgresql(source: Source) -> str | None:
    """The pair that Debezium keeps in `source.sequence`.

    The end of the last commit before the change alone is too coarse. The change's own LSN alone is
    wrong against snapshots: a transaction that wrote before a snapshot read the row, and committed
    after, has the smaller LSN and the newer row. In the pair it is later, because its commit is.

    - An incremental read carries the pair of the event that closed its window, and takes its place.
    - Any other snapshot is read at once, between two commits: it comes after everything up to the
      last commit, and before all that is streamed after it, so its own LSN counts as 0. The initial
      one knows no commit yet; the LSN that it starts from stands in.
    - The first transaction after that knows no commit either; its own LSN stands in.
    """
    own = source.get("lsn")
    commit, last = _sequence(source.get("sequence"))
    if own is None:
        own = last
    if own is None:
        return None
    if isinstance(own, bool) or not isinstance(own, int) or not 0 <= own < _LIMIT:
        raise _unusable("lsn")
    if commit is None:
        commit = own
    snapshot = source.get("snapshot")
    if isinstance(snapshot, str) and snapshot in SNAPSHOT_READS:
        own = 0
    return f"{commit:016x}.{own:016x}"


def _sequence(sequence: Any) -> tuple[int | None, int | None]:
    """The two numbers of `source.sequence`, a string that holds JSON; the first may be null."""
    if not isinstance(sequence, str):
        return None, None
    try:
        commit, own = (None if n is None else int(n) for n in orjson.loads(sequence))
    except (orjson.JSONDecodeError, TypeError, ValueError, OverflowError):
        return None, None
    if not all(n is None or 0 <= n < _LIMIT for n in (commit, own)):
        return None, None
    return commit, own


def _mysql(source: Source) -> str | None:
    file = source.get("file")
    if file is None:
        return None
    number = _BINLOG_NUMBER.search(file) if isinstance(file, str) else None
    if number is None or len(number[1]) > 15:
        raise _unusable("file")
    position = _number(source, "pos", 2**40)
    row = _number(source, "row", 2**24, default=0)
    return f"{int(number[1]):016x}.{position << 24 | row:016x}"


def _sqlserver(source: Source) -> str | None:
    if source.get("commit_lsn") is None:
        return None
    commit = _lsn(source, "commit_lsn")
    change = _lsn(source, "change_lsn")
    serial = _number(source, "event_serial_no", 2**32, default=0)
    return f"{commit}.{change}.{serial:08x}"


def _lsn(source: Source, field: str) -> str:
    value = source.get(field)
    if value is None:  # of a snapshot's read
        return "0" * 20
    match = _SQLSERVER_LSN.match(value) if isinstance(value, str) else None
    if match is None:
        raise _unusable(field)
    return "".join(match.groups()).lower()


def _oracle(source: Source) -> str | None:
    own = source.get("scn")
    commit = source.get("commit_scn")
    if own is None and commit is None:
        return None
    read = commit is None or source.get("snapshot") in SNAPSHOT_READS
    first = _number(source, "scn" if commit is None else "commit_scn", _LIMIT)
    second = 0 if read else _number(source, "scn", _LIMIT, default=0)
    third = _number(source, "ssn", 2**32, default=0)
    return f"{first:016x}.{second:016x}.{third:08x}"


def _mongodb(source: Source) -> str | None:
    if source.get("ts_ms") is None or "ord" not in source:
        return None
    order = source.get("ord")
    if isinstance(order, int) and order < 0:  # before the first event of its second
        order = 0
    return (
        f"{_number(source, 'ts_ms', _LIMIT):016x}.{_number({'ord': order}, 'ord', _LIMIT, 0):016x}"
    )


def _number(source: Source, field: str, limit: int, default: int | None = None) -> int:
    """A number of the block; Oracle's and unwrapped ones may be text."""
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
    "sqlserver": _sqlserver,
    "db2": _sqlserver,
    "oracle": _oracle,
    "mongodb": _mongodb,
}

_BY_FIELD: Mapping[str, Callable[[Source], str | None]] = {
    "lsn": _postgresql,
    "sequence": _postgresql,
    "file": _mysql,
    "commit_lsn": _sqlserver,
    "commit_scn": _oracle,
    "ord": _mongodb,
}
"""For rows that ExtractNewRecordState made, which name no connector."""

_NAMES: Mapping[Callable[[Source], str | None], str] = {
    _postgresql: "PostgreSQL's LSN",
    _mysql: "binlog file, position and row",
    _sqlserver: "commit and change LSN",
    _oracle: "commit SCN and SCN",
    _mongodb: "the oplog's time and ordinal",
}
