"""Builds change events for tests: envelopes as Debezium writes them, and Kafka logs in memory."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from operators.changes.events import DeadLetter
from operators.contract.sections import Contract
from operators.contract.table import TableSection
from operators.kafka.log_reader import BEGINNING, Bounds, OffsetGone, Record

TOPIC = "app.public.docs"
PAIRS_TOPIC = "app.public.pairs"


def contract(**sections: Any) -> Contract:
    """A contract of two tables, one with a composite key; each section can be overridden."""
    data: dict[str, Any] = {
        "kafka": {"bootstrap_servers": "127.0.0.1:1"},
        "milvus": {"uri": "memory"},
        "embedding": {"model": "hash"},
        "tables": [
            {
                "topic": TOPIC,
                "collection": "docs",
                "key": ["id"],
                "text": "{name}\n{doc}",
                "columns": {"kind": "varchar", "size": "int64"},
            },
            {
                "topic": PAIRS_TOPIC,
                "collection": "pairs",
                "key": ["left", "right"],
                "text": "{note}",
            },
        ],
    }
    for name, values in sections.items():
        more = isinstance(data.get(name), dict)
        data[name] = {**data[name], **values} if more else values
    return Contract.model_validate(data)


def table(**changed: Any) -> TableSection:
    """The first table of `contract`, with some settings changed."""
    first = contract().tables[0].model_dump()
    return TableSection.model_validate({**first, **changed})


def key(**columns: Any) -> bytes:
    """A Kafka key."""
    return orjson.dumps(columns)


def source(lsn: int | None, ts_ms: int | None = None, **more: Any) -> dict[str, Any]:
    """A PostgreSQL source block; each LSN gets its own commit time."""
    if ts_ms is None:
        ts_ms = 1_700_000_000_000 + (lsn if isinstance(lsn, int) else 0)
    return {"connector": "postgresql", "lsn": lsn, "ts_ms": ts_ms, "snapshot": "false", **more}


def envelope(op: str, lsn: int, after: dict[str, Any] | None, **more: Any) -> bytes:
    """The value of a change event without schema."""
    before = None if op != "d" else {}
    return orjson.dumps({"before": before, "after": after, "source": source(lsn), "op": op, **more})


def doc(id_: int, text: str = "text", **columns: Any) -> dict[str, Any]:
    """A row of the first table."""
    return {"id": id_, "name": f"doc {id_}", "doc": text, "kind": "page", "size": 1, **columns}


def put(id_: int, lsn: int, text: str = "text", op: str = "u") -> tuple[bytes, bytes | None]:
    """Key and value of an insert or update."""
    return key(id=id_), envelope(op, lsn, doc(id_, text))


def gone(id_: int, lsn: int) -> tuple[bytes, bytes | None]:
    """Key and value of a delete."""
    return key(id=id_), envelope("d", lsn, None)


def tombstone(id_: int) -> tuple[bytes, bytes | None]:
    """Key and value of a tombstone."""
    return key(id=id_), None


def _other_key(headers: list[Any]) -> bytes | None:
    found = dict(headers[0]) if headers else {}
    return found.get("__debezium.oldkey") or found.get("__debezium.newkey")


@dataclass
class Log:
    """A Kafka topic partition in memory; offsets count from 0.

    Records are (key, value) or (key, value, headers).

    Attributes:
        written: How many of the records are in the log so far; None for all.
        per_read: Most records in one answer to a reader; None for all that it asks for.
        first: The first offset that retention has left.
        compacted: Offsets of records that compaction has removed.
        silent: A read returns nothing and never reports the end of the partition.
    """

    records: list[tuple[Any, ...]] = field(default_factory=list)
    written: int | None = None
    per_read: int | None = None
    first: int = 0
    compacted: set[int] = field(default_factory=set)
    silent: bool = False

    def end(self) -> int:
        return len(self.records) if self.written is None else self.written

    def reader(self, offset: int) -> "LogReader":
        return LogReader(self, self.first if offset == BEGINNING else offset)


class LogReader:
    """A `LogReader` over a `Log`."""

    def __init__(self, log: Log, offset: int) -> None:
        self._log = log
        self._next = offset

    def read(self, max_records: int) -> tuple[list[Record], list[Any]]:
        log = self._log
        if not log.first <= self._next <= log.end():
            raise OffsetGone(log.first)
        if log.silent:
            return [], []
        end = min(self._next + min(max_records, log.per_read or max_records), log.end())
        offsets = range(self._next, end)
        batch = zip(offsets, log.records[self._next : end], strict=True)
        self._next = end
        left = [(o, k, v, _other_key(h)) for o, (k, v, *h) in batch if o not in log.compacted]
        return left, []

    def at_end(self) -> bool:
        return self._next == self._log.end() and not self._log.silent

    def lag(self) -> int | None:
        return self._log.end() - self._next

    def bounds(self) -> Bounds | None:
        return Bounds(self._log.first, self._log.end())

    def close(self) -> None:
        pass


class LetterBox:
    """A `DeadLetterSink` that keeps the letters in a list."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []

    def send(self, letters: Any) -> None:
        self.letters += letters
