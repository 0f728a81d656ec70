"""A seeded, endless stream of changes, and the record of all of them that the checker compares with."""

import random
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from typing import NamedTuple

from operators.changes.version import offset_of
from tests.changes import doc, envelope, gone, key, tombstone
from tests.integration.running import position_of

PARTITIONS = 3

RESEND = 0.0007
"""The chance, after each change, that a range of the last changes is sent again."""

TABLE = "docs"


class Sent(NamedTuple):
    """A record for the broker."""

    partition: int
    key: bytes
    value: bytes | None


class State(NamedTuple):
    """The state of a row that a reader sees: source position, text, size."""

    lsn: int
    text: str
    size: int


def entity_of(row: int) -> str:
    """The entity id of a row."""
    return f"{TABLE}:{row}#0"


def row_of(entity: str) -> int:
    """The row of an entity id."""
    return int(entity[len(TABLE) + 1 : -2])


class Truth:
    """Every change so far, by source position, and every record, by offset.

    Source positions count from 1. A record is noted here before it is sent to the broker.
    """

    def __init__(self) -> None:
        self._rows = array("q", [-1])
        self._texts = array("q", [0])
        self._deletes: defaultdict[int, list[int]] = defaultdict(list)
        self._log = [array("q") for _ in range(PARTITIONS)]
        self._deleted_at: defaultdict[int, list[int]] = defaultdict(list)

    def changed(self, row: int, text: int) -> int:
        """Note a change; `text` is the position of the change that set the text, 0 for a delete.

        Returns:
            Its source position.
        """
        self._rows.append(row)
        self._texts.append(text)
        lsn = len(self._rows) - 1
        if not text:
            self._deletes[row].append(lsn)
        return lsn

    def logged(self, lsn: int, *, delete: bool = False) -> None:
        """Note a record for a change, at the next offset of its row's partition."""
        row = self._rows[lsn]
        log = self._log[row % PARTITIONS]
        if delete:
            self._deleted_at[row].append(len(log))
        log.append(lsn)

    @property
    def records(self) -> int:
        return sum(map(len, self._log))

    @property
    def changes(self) -> int:
        return len(self._rows) - 1

    def of(self, partition: int, start: int, end: int) -> list[tuple[int, int]]:
        """(row, source position) of the records between two offsets."""
        return [(self._rows[lsn], lsn) for lsn in self._log[partition][start:end]]

    def is_delete(self, lsn: int) -> bool:
        return not self._texts[lsn]

    def next_delete(self, row: int, lsn: int) -> int | None:
        """The first delete of a row after a source position."""
        deletes = self._deletes[row]
        at = bisect_right(deletes, lsn)
        return deletes[at] if at < len(deletes) else None

    def deleted_between(self, row: int, start: int, end: int) -> bool:
        """Whether a record in [start, end) deletes the row."""
        offsets = self._deleted_at[row]
        return bisect_left(offsets, start) < bisect_left(offsets, end)

    def state(self, lsn: int) -> State:
        """The row after a change."""
        row = doc(self._rows[lsn], f"version {self._texts[lsn]}")
        return State(lsn, f"{row['name']}\n{row['doc']}", lsn)

    def problem(self, entity: str, version: str, text: str, size: int) -> str | None:
        """What is wrong with an entity: an unknown version, or the values of another version."""
        lsn, offset = position_of(version), offset_of(version)  # type: ignore[arg-type]
        row = row_of(entity)
        log = self._log[row % PARTITIONS]
        if not (0 < lsn < len(self._rows) and offset < len(log)):
            return "a version that was never produced"
        if self._rows[lsn] != row or log[offset] != lsn or self.is_delete(lsn):
            return "a version that is none of its row"
        if self.state(lsn) != (lsn, text, size):
            return "values that are not those of its version"
        return None

    def final(self) -> dict[str, State]:
        """Every row that exists after the last change, by entity id."""
        last = {self._rows[lsn]: lsn for lsn in range(1, len(self._rows))}
        return {
            entity_of(row): self.state(lsn) for row, lsn in last.items() if not self.is_delete(lsn)
        }


class Stream:
    """Inserts, updates, deletes and re-creations of rows, some of them far more often than others.

    Two of three updates leave the text unchanged. Now and then a range of changes is sent again at
    later offsets, as Debezium does after it was killed.

    Args:
        rows: Most rows that the table holds.
        seed: The same seed gives the same stream, however many changes each `take` asks for.

    Attributes:
        resent: How many ranges were sent again.
        resent_records: How many records were in them.
    """

    HOT = 30

    def __init__(self, rows: int, seed: int) -> None:
        self._draw = random.Random(seed)
        self._count = rows
        self._there: dict[int, int] = {}
        self._recent: list[tuple[int, list[Sent]]] = []
        self.truth = Truth()
        self.resent = self.resent_records = 0
        self.hot = [entity_of(row) for row in range(self.HOT)]

    def take(self, changes: int) -> list[Sent]:
        """The records of the next `changes` changes, and of the ranges sent again between them."""
        sent: list[Sent] = []
        for _ in range(changes):
            sent += self._change()
            if self._draw.random() < RESEND:
                sent += self._again(self._draw.randrange(len(self._recent)))
        return sent

    def _again(self, start: int) -> list[Sent]:
        self.resent += 1
        sent: list[Sent] = []
        for lsn, records in self._recent[start:]:
            self._log(lsn, records)
            sent += records
        self.resent_records += len(sent)
        return sent

    def _change(self) -> list[Sent]:
        draw = self._draw
        row = draw.randrange(self.HOT if draw.random() < 0.25 else self._count)
        text = self._there.get(row)
        partition = row % PARTITIONS
        if text is not None and draw.random() < 0.15:
            del self._there[row]
            lsn = self.truth.changed(row, 0)
            records = [Sent(partition, *gone(row, lsn)), Sent(partition, *tombstone(row))]
        else:
            lsn = self.truth.changes + 1
            op = "c" if text is None else "u"
            if text is None or draw.random() < 1 / 3:
                text = lsn
            self._there[row] = text
            assert self.truth.changed(row, text) == lsn
            after = doc(row, f"version {text}", size=lsn)
            records = [Sent(partition, key(id=row), envelope(op, lsn, after))]
        self._log(lsn, records)
        self._recent.append((lsn, records))
        if len(self._recent) > 2_000:
            del self._recent[:1_000]
        return records

    def _log(self, lsn: int, records: list[Sent]) -> None:
        for record in records:
            deletes = self.truth.is_delete(lsn) and record.value is not None
            self.truth.logged(lsn, delete=deletes)
