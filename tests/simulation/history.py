"""What a database did to a table, and the partitions of a topic that tell of it.

A history is a list of changes in the order of their log positions. `Topic` writes it down as Debezium
would: by key to partitions, with ranges sent again after the connector died, tombstones that come late
or are all that compaction has left, and records that nobody can read.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Any, NamedTuple

from operators.contract.table import UNAVAILABLE
from tests.changes import Log, doc, envelope, gone, key, tombstone

POISON = "poison"
"""The store refuses a row with this word."""


class Fault(Enum):
    """What is wrong with the record of a change."""

    NONE = "none"
    RENDER = "cannot be rendered"
    DECODE = "cannot be read"
    STORE = "the store refuses it"


class Values(NamedTuple):
    """A row of the database."""

    name: str
    doc: str

    @property
    def text(self) -> str:
        return f"{self.name}\n{self.doc}"


@dataclass(frozen=True)
class Change:
    """What one row is from a log position on.

    Attributes:
        values: None where it is not there.
        partial: Its `doc` is left out of the message, being what it was.
        old, new: Its key before, and its key from then on, in a change of the key.
        emptied: It is gone with the whole table.
    """

    row: int
    lsn: int
    values: Values | None
    partial: bool = False
    fault: Fault = Fault.NONE
    old: int | None = None
    new: int | None = None
    emptied: bool = False

    @property
    def bad(self) -> bool:
        return self.fault is not Fault.NONE


@dataclass(frozen=True)
class Kinds:
    """Which shapes a history has."""

    rows: int
    changes: int
    faults: bool
    moves: bool
    truncates: bool
    resent: bool
    compacted: bool


class _Table:
    """The table while its history is drawn."""

    def __init__(self, rng: Random, kinds: Kinds) -> None:
        self._rng = rng
        self._kinds = kinds
        self._rows: dict[int, Values] = {}
        self.changes: list[Change] = []

    def step(self, lsn: int) -> None:
        rng, kinds, rows = self._rng, self._kinds, self._rows
        row = rng.randrange(kinds.rows)
        dice = rng.randrange(20)
        absent = [each for each in range(kinds.rows) if each not in rows]
        if dice == 0 and kinds.truncates:
            self.changes += [Change(each, lsn, None, emptied=True) for each in range(kinds.rows)]
            rows.clear()
        elif row not in rows:
            self._set(Change(row, lsn, self._fresh(lsn)))
        elif dice <= 3:
            self._set(Change(row, lsn, None))
        elif dice <= 5 and kinds.moves and absent:
            self._move(row, rng.choice(absent), lsn)
        elif dice <= 10:
            self._set(Change(row, lsn, rows[row]._replace(name=self._name(lsn)), partial=True))
        elif dice <= 12:
            self._set(Change(row, lsn, rows[row]))
        else:
            self._set(Change(row, lsn, self._fresh(lsn)))

    def _name(self, lsn: int) -> str:
        # Of many words or few, so that a row may have fewer chunks than before.
        return self._rng.choice(["name", f"name {lsn}", f"a name of many words, the {lsn}"])

    def _fresh(self, lsn: int) -> Values:
        # Few texts, so that updates that bring an old one back are among them; long and short.
        letter, words = self._rng.choice("ab"), self._rng.choice([1, 3, 12, 30])
        text = " ".join(f"{letter}{i}" for i in range(words))
        return Values(self._rng.choice(["name", self._name(lsn)]), text)

    def _move(self, old: int, new: int, lsn: int) -> None:
        partial = self._rng.random() < 0.5
        values = self._rows[old]._replace(name=self._name(lsn)) if partial else self._fresh(lsn)
        self._set(Change(old, lsn, None, new=new))
        self._set(Change(new, lsn, values, partial=partial, old=old))

    def _set(self, change: Change) -> None:
        values = change.values
        if values is not None:
            if self._kinds.faults and self._rng.randrange(7) == 0:
                change = self._spoilt(change, values)
            elif POISON in values.text:
                change = replace(change, fault=Fault.STORE)
        self.changes.append(change)
        if change.values is None:
            self._rows.pop(change.row, None)
        else:
            self._rows[change.row] = change.values

    def _spoilt(self, change: Change, values: Values) -> Change:
        fault = self._rng.choice([Fault.RENDER, Fault.DECODE, Fault.STORE])
        if fault is not Fault.RENDER and not change.partial:
            # What is refused is a value of its own, which nobody may take an older one for.
            word = POISON if fault is Fault.STORE else "lost"
            values = values._replace(doc=f"{word} {change.lsn}")
        if fault is Fault.STORE and POISON not in values.doc:
            values = values._replace(name=f"{POISON} {change.lsn}")
        return replace(change, values=values, fault=fault)


def history_of(rng: Random, kinds: Kinds) -> list[Change]:
    """What the database did, one change after another."""
    drawn = _Table(rng, kinds)
    for lsn in range(1, kinds.changes + 1):
        drawn.step(lsn)
    return drawn.changes


class Topic:
    """The partitions that hold a history.

    Attributes:
        places: The change that lies at (partition, offset); of tombstones, the delete before them.
        sent: How often each fault of the source is in there, by name.
    """

    def __init__(
        self, rng: Random, history: Sequence[Change], kinds: Kinds, partitions: int
    ) -> None:
        self._rng = rng
        self.partitions = partitions
        self.logs = [Log(written=0, per_read=rng.choice([1, 2, 5])) for _ in range(partitions)]
        self.places: dict[tuple[int, int], Change] = {}
        self.sent: Counter[str] = Counter()
        self._fill(history, kinds)

    def partition_of(self, row: int) -> int:
        """Where a row's records lie."""
        return row % self.partitions

    def _fill(self, history: Sequence[Change], kinds: Kinds) -> None:
        rng = self._rng
        transactions: list[list[Change]] = []
        for change in history:
            if transactions and transactions[-1][0].lsn == change.lsn:
                transactions[-1].append(change)
            else:
                transactions.append([change])
        entries: list[tuple[Change, bool]] = []
        for index, transaction in enumerate(transactions):
            again = kinds.resent and rng.randrange(6) == 0
            late = again and any(c.values is None and not c.emptied for c in transaction)
            entries += self._entries(transaction, tombstones=not late)
            if not again:
                continue
            back = rng.randint(1, 8)
            self.sent["late tombstone"] += late
            self.sent["record sent twice" if back == 1 else "range sent again"] += 1
            for each in transactions[max(0, index + 1 - back) : index + 1]:
                entries += self._entries(each, tombstones=True)
        for change, is_tombstone in self._compacted(entries) if kinds.compacted else entries:
            number = self.partition_of(change.row)
            if change.emptied:
                number = rng.randrange(self.partitions)
            self.places[number, len(self.logs[number].records)] = change
            record = tombstone(change.row) if is_tombstone else _record(change)
            self.logs[number].records.append(record)

    def _entries(
        self, transaction: Sequence[Change], *, tombstones: bool
    ) -> list[tuple[Change, bool]]:
        """(change, whether it is only the tombstone) of each record; a TRUNCATE is one."""
        entries: list[tuple[Change, bool]] = []
        for change in transaction:
            if change.emptied and change.row:
                continue
            entries.append((change, False))
            if change.values is None and not change.emptied and tombstones:
                if self._rng.randrange(5):
                    entries.append((change, True))
                else:
                    self.sent["no tombstone"] += 1
        return entries

    def _compacted(self, entries: list[tuple[Change, bool]]) -> list[tuple[Change, bool]]:
        """The same without some deletes, of which only the tombstones are left.

        Not where the row's records were sent again on both sides of it: a tombstone has no version,
        and which side it belongs to cannot be told.
        """
        kept: list[tuple[Change, bool]] = []
        for index, (change, is_tombstone) in enumerate(entries):
            if (
                not is_tombstone
                and change.values is None
                and not change.emptied
                and change.new is None
                and entries[index + 1 : index + 2] == [(change, True)]
                and not any(c.row == change.row and c.lsn > change.lsn for c, _ in entries[:index])
                and not any(
                    c.row == change.row and c.lsn <= change.lsn for c, _ in entries[index + 2 :]
                )
                and self._rng.randrange(3) == 0
            ):
                self.sent["tombstone alone"] += 1
                continue
            kept.append((change, is_tombstone))
        return kept


def _record(change: Change) -> tuple[Any, ...]:
    values, row = change.values, change.row
    if change.emptied:
        return None, envelope("t", change.lsn, None)
    if values is None:
        if change.new is None:
            return gone(row, change.lsn)
        return (*gone(row, change.lsn), [("__debezium.newkey", key(id=change.new))])
    if change.fault is Fault.DECODE:
        return key(id=row), b"{"
    size = "?" if change.fault is Fault.RENDER else change.lsn
    text = UNAVAILABLE if change.partial else values.doc
    after = doc(row, text, name=values.name, size=size)
    if change.old is None:
        return key(id=row), envelope("u", change.lsn, after)
    headers = [("__debezium.oldkey", key(id=change.old))]
    return key(id=row), envelope("c", change.lsn, after), headers
