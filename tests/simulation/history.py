"""Histories: the changes of one table in a database, drawn one by one.

A history is a list of changes in the order of their log positions. A seeded `Random` draws those of the
simulation, Hypothesis those of `tests/properties`; both know the same shapes of change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")

POISON = "poison"
"""The store refuses a row with this word."""


class Dice(Protocol):
    """A source of randomness: a `Random`, or draws of Hypothesis."""

    def random(self) -> float:
        """From 0.0 to below 1.0."""
        ...

    def randrange(self, stop: int, /) -> int:
        """From 0 to `stop` - 1."""
        ...

    def randint(self, a: int, b: int, /) -> int:
        """From `a` to `b`."""
        ...

    def choice(self, seq: Sequence[T], /) -> T:
        """One element of the sequence."""
        ...


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
    kind: str = "page"
    gone: bool = False

    @property
    def hidden(self) -> bool:
        """Whether the filter or the soft-delete column keeps it out of the collection."""
        return self.kind != "page" or self.gone

    @property
    def text(self) -> str:
        return f"{self.name}\n{self.doc}"


@dataclass(frozen=True, eq=False)
class Change:
    """The state of one row from a log position on. Changes are compared by identity.

    Attributes:
        values: None if the row does not exist.
        partial: Its `doc` is unchanged and left out of the message.
        unpositioned: The message has no position.
        old, new: The row's old and new key, in a key change.
        emptied: A TRUNCATE has deleted the row.
        part: Number of its physical table.
    """

    row: int
    lsn: int
    values: Values | None
    partial: bool = False
    fault: Fault = Fault.NONE
    unpositioned: bool = False
    old: int | None = None
    new: int | None = None
    emptied: bool = False
    part: int = 0

    @property
    def bad(self) -> bool:
        return self.fault is not Fault.NONE

    @property
    def seen(self) -> Values | None:
        """The values that the collection should show."""
        return None if self.values is None or self.values.hidden else self.values


@dataclass(frozen=True)
class Kinds:
    """The kinds of changes in a history, and how its records are sent.

    Attributes:
        faults: Records that cannot be read or rendered, or that the store refuses.
        moves: Key changes.
        resent: The connector dies, and sends a range again.
        compacted: Log compaction has removed some deletes and left their tombstones.
        hiding: Rows that the filter and the soft-delete column hide and show again.
        unpositioned: Changes without a position.
        mixed: Texts that share some of their words.
        tables: How many physical tables the topic has; a row's is its number modulo that.
        servers: Each physical table is on a server of its own, with a log of its own.
        wandering: A row that is made again may be in another physical table than before.
        others: The topic also has changes of a table that the contract does not take.
        grown: How many partitions are added in the middle, so that rows go to others from then on.
    """

    rows: int
    changes: int
    faults: bool = False
    moves: bool = False
    truncates: bool = False
    resent: bool = False
    compacted: bool = False
    hiding: bool = False
    unpositioned: bool = False
    mixed: bool = False
    tables: int = 1
    servers: bool = False
    wandering: bool = False
    others: bool = False
    grown: int = 0


class _Table:
    """The state of the table while its history is drawn."""

    def __init__(self, dice: Dice, kinds: Kinds) -> None:
        self._dice = dice
        self._kinds = kinds
        self._rows: dict[int, Values] = {}
        self._part = {row: row % kinds.tables for row in range(kinds.rows)}
        self.changes: list[Change] = []

    def step(self, lsn: int) -> None:
        kinds, rows = self._kinds, self._rows
        row = self._dice.randrange(kinds.rows)
        kind = self._dice.randrange(20)
        part = self._part[row]
        same = [each for each in range(kinds.rows) if self._part[each] == part]
        if kinds.wandering and row not in rows:
            self._part[row] = self._dice.randrange(kinds.tables)
        absent = [each for each in same if each not in rows]
        if kind == 0 and kinds.truncates:
            self.changes += [Change(each, lsn, None, emptied=True, part=part) for each in same]
            for each in same:
                rows.pop(each, None)
        elif row not in rows:
            self._set(Change(row, lsn, self._fresh(lsn)))
        elif kind <= 3:
            self._set(Change(row, lsn, None))
        elif kind <= 5 and kinds.moves and absent:
            self._move(row, self._dice.choice(absent), lsn)
        elif kind <= 10:
            values = rows[row]._replace(name=self._name(lsn))
            self._set(Change(row, lsn, self._flipped(values), partial=True))
        elif kind <= 12:
            self._set(Change(row, lsn, rows[row]))
        else:
            self._set(Change(row, lsn, self._fresh(lsn)))

    def _name(self, lsn: int) -> str:
        # Long and short texts, so that a row may get fewer chunks than before.
        return self._dice.choice(["name", f"name {lsn}", f"a name of many words, the {lsn}"])

    def _fresh(self, lsn: int) -> Values:
        # Few different texts, so that some updates restore an old one; long and short.
        dice = self._dice
        letter, words = dice.choice("ab"), dice.choice([1, 3, 12, 30])
        letters = [dice.choice("ab") for _ in range(words)] if self._kinds.mixed else letter * words
        text = " ".join(f"{letter}{i}" for i, letter in enumerate(letters))
        return self._flipped(Values(dice.choice(["name", self._name(lsn)]), text))

    def _flipped(self, values: Values) -> Values:
        """The row, sometimes hidden if it was shown, or shown if it was hidden."""
        if self._kinds.hiding:
            flag = self._dice.choice(["", "", "", "kind", "gone"])
            if flag == "kind":
                return values._replace(kind="draft" if values.kind == "page" else "page")
            if flag == "gone":
                return values._replace(gone=not values.gone)
        return values

    def _move(self, old: int, new: int, lsn: int) -> None:
        partial = self._dice.random() < 0.5
        values = self._rows[old]._replace(name=self._name(lsn)) if partial else self._fresh(lsn)
        self._set(Change(old, lsn, None, new=new))
        self._set(Change(new, lsn, self._flipped(values), partial=partial, old=old))

    def _set(self, change: Change) -> None:
        values, kinds = change.values, self._kinds
        if values is not None:
            if kinds.faults and self._dice.randrange(7) == 0:
                change = self._spoilt(change, values)
            values = change.values
            assert values is not None
            if values.hidden and change.fault is not Fault.DECODE:
                change = replace(change, fault=Fault.NONE)  # hidden: neither rendered nor stored
            elif not change.bad and POISON in values.text:
                change = replace(change, fault=Fault.STORE)
        if kinds.unpositioned and change.old is None and change.new is None:
            change = replace(change, unpositioned=self._dice.randrange(3) == 0)
        self.changes.append(replace(change, part=self._part[change.row]))
        if values is None:
            self._rows.pop(change.row, None)
        else:
            self._rows[change.row] = values

    def _spoilt(self, change: Change, values: Values) -> Change:
        fault = self._dice.choice([Fault.RENDER, Fault.DECODE, Fault.STORE])
        if fault is not Fault.RENDER and not change.partial:
            # A refused change gets a unique text, so that showing an older one is detected.
            word = POISON if fault is Fault.STORE else "lost"
            values = values._replace(doc=f"{word} {change.lsn}")
        if fault is Fault.STORE and POISON not in values.doc:
            values = values._replace(name=f"{POISON} {change.lsn}")
        return replace(change, values=values, fault=fault)


def history_of(dice: Dice, kinds: Kinds) -> list[Change]:
    """Draw a history, in the order of its changes."""
    drawn = _Table(dice, kinds)
    for lsn in range(1, kinds.changes + 1):
        drawn.step(lsn)
    return drawn.changes
