"""Histories of every shape of change event, and what they may leave in the collection.

The table cuts its texts into chunks, shows its pages and hides its drafts and what is marked as gone.
A history is what the database did; `logs_of` writes it down as Debezium would, with left-out values,
changes of the key over two partitions, ranges sent again, and records that are beyond use. `Judge`
knows the truth about every change, and what a dead letter may be an excuse for.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

import hypothesis.strategies as st
import orjson

from operators.changes.text_hash import text_hash
from operators.changes.version import offset_of
from operators.contract.table import UNAVAILABLE, TableSection
from operators.errors import RecordError
from operators.store.protocol import Entity
from tests.changes import Log, doc, envelope, gone, key, table, tombstone
from tests.fakes import HashEmbedder, MemoryStore
from tests.properties.simulation import Simulation, id_of

ROWS = 5
CHUNK, OVERLAP = 8, 2
POISON = "poison"
"""The store refuses a row with this word."""

SECTION: TableSection = table(
    chunks={"max_tokens": CHUNK, "overlap_tokens": OVERLAP},
    filter=[{"column": "kind", "equals": "page"}],
    soft_delete="gone",
)


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
        return self.kind != "page" or self.gone

    @property
    def text(self) -> str:
        return f"{self.name}\n{self.doc}"


@dataclass(frozen=True)
class Change:
    """What one row is from a moment on.

    Attributes:
        values: None where it is not there.
        partial: Its `doc` is left out of the message, being what it was.
        unpositioned: The message has no position.
        old, new: Its key before, and its key from then on, in a change of the key.
        emptied: It is gone with the whole table.
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

    @property
    def bad(self) -> bool:
        return self.fault is not Fault.NONE

    @property
    def seen(self) -> Values | None:
        """What the collection is to show of it."""
        return None if self.values is None or self.values.hidden else self.values


@dataclass
class Kinds:
    """Which shapes a history has."""

    faults: bool = False
    hiding: bool = False
    moves: bool = False
    truncates: bool = False
    unpositioned: bool = False


class _Table:
    """The table while its history is drawn."""

    def __init__(self, draw: st.DrawFn, kinds: Kinds) -> None:
        self._draw = draw
        self._kinds = kinds
        self.rows: dict[int, Values] = {}
        self.changes: list[Change] = []

    def step(self, lsn: int) -> None:
        draw, kinds, rows = self._draw, self._kinds, self.rows
        row = draw(st.integers(0, ROWS - 1))
        kind = draw(st.integers(0, 15))
        absent = [each for each in range(ROWS) if each not in rows]
        if kind == 0 and kinds.truncates:
            self.changes += [Change(each, lsn, None, emptied=True) for each in range(ROWS)]
            rows.clear()
        elif row not in rows:
            self._set(Change(row, lsn, self._fresh(lsn)))
        elif kind <= 2:
            self._set(Change(row, lsn, None))
        elif kind <= 5 and kinds.moves and absent:
            self._move(row, draw(st.sampled_from(absent)), lsn)
        elif kind <= 10:
            values = rows[row]._replace(name=f"name {lsn}")
            self._set(Change(row, lsn, self._shown(values), partial=True))
        else:
            self._set(Change(row, lsn, self._fresh(lsn)))

    def _fresh(self, lsn: int) -> Values:
        # Few texts, so that updates that leave the text alone are among them; long and short ones.
        words = self._draw(st.sampled_from([1, 3, 12, 30]))
        text = " ".join(f"{self._draw(st.sampled_from('ab'))}{i}" for i in range(words))
        name = self._draw(st.sampled_from(["name", f"name {lsn}"]))
        return self._shown(Values(name, text))

    def _shown(self, values: Values) -> Values:
        if self._kinds.hiding:
            change = self._draw(st.sampled_from(["", "", "", "kind", "gone"]))
            if change == "kind":
                return values._replace(kind="draft" if values.kind == "page" else "page")
            if change == "gone":
                return values._replace(gone=not values.gone)
        return values

    def _move(self, old: int, new: int, lsn: int) -> None:
        draw = self._draw
        values = self.rows[old]._replace(name=f"name {lsn}")
        partial = draw(st.integers(0, 3)) > 0
        if not partial:
            values = self._fresh(lsn)
        self._set(Change(old, lsn, None, new=new))
        self._set(Change(new, lsn, self._shown(values), partial=partial, old=old))

    def _set(self, change: Change) -> None:
        draw, kinds, values = self._draw, self._kinds, change.values
        if kinds.faults and values is not None and draw(st.integers(0, 5)) == 0:
            fault = draw(st.sampled_from([Fault.RENDER, Fault.DECODE, Fault.STORE]))
            if fault is not Fault.RENDER and not change.partial:
                # What is refused is a value of its own, which nobody may take an older one for.
                word = POISON if fault is Fault.STORE else "lost"
                values = values._replace(doc=f"{word} {change.lsn}")
            if fault is Fault.STORE and POISON not in values.doc:
                values = values._replace(name=f"{POISON} {change.lsn}")
            change = replace(change, values=values, fault=fault)
        if values is not None and values.hidden and change.fault is not Fault.DECODE:
            change = replace(change, fault=Fault.NONE)  # nobody looks at the rest of it
        elif values is not None and not change.bad and POISON in values.text:
            change = replace(change, fault=Fault.STORE)
        if kinds.unpositioned and change.old is None and change.new is None:
            change = replace(change, unpositioned=draw(st.integers(0, 2)) == 0)
        self.changes.append(change)
        if values is None:
            self.rows.pop(change.row, None)
        else:
            self.rows[change.row] = values


@st.composite
def histories(draw: st.DrawFn, kinds: Kinds) -> list[Change]:
    """What the database did, one change of the table after another."""
    drawn = _Table(draw, kinds)
    for lsn in range(1, draw(st.integers(1, 25)) + 1):
        drawn.step(lsn)
    return drawn.changes


class Sent(NamedTuple):
    """Where changes lie: (partition, offset) → the change."""

    logs: list[Log]
    changes: dict[tuple[int, int], Change]


def logs_of(history: Sequence[Change], partitions: int) -> Sent:
    """The messages of changes, by key to partitions; a TRUNCATE is one message, in the first."""
    sent = Sent([Log(written=0, per_read=2) for _ in range(partitions)], {})
    for change in history:
        number = 0 if change.emptied else change.row % partitions
        if change.emptied and change.row:
            continue
        log = sent.logs[number]
        sent.changes[number, len(log.records)] = change
        log.records.append(_record(change))
        if (
            change.values is None
            and not change.emptied
            and not change.unpositioned
            and change.lsn % 4
        ):
            log.records.append(tombstone(change.row))
    return sent


def _record(change: Change) -> tuple[Any, ...]:
    values, row = change.values, change.row
    if change.emptied:
        return None, envelope("t", change.lsn, None)
    if values is None:
        if change.unpositioned:
            return key(id=row), orjson.dumps({"id": row, "__deleted": "true"})
        if change.new is None:
            return gone(row, change.lsn)
        return (*gone(row, change.lsn), [("__debezium.newkey", key(id=change.new))])
    if change.fault is Fault.DECODE:
        return key(id=row), b"{"
    size = "?" if change.fault is Fault.RENDER else change.lsn
    text = UNAVAILABLE if change.partial else values.doc
    after = doc(row, text, name=values.name, kind=values.kind, gone=values.gone, size=size)
    if change.unpositioned:
        return key(id=row), orjson.dumps({**after, "__deleted": "false"})
    message = envelope("u" if change.old is None else "c", change.lsn, after)
    if change.old is None:
        return key(id=row), message
    return key(id=row), message, [("__debezium.oldkey", key(id=change.old))]


class Write(NamedTuple):
    """The first chunk of a row as it was written, or None as it was removed."""

    id: str
    version: str | None
    text_hash: str


class PickyStore(MemoryStore):
    """Refuses what is poisoned, and remembers what it was told of every first chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Write] = []

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        if any(POISON in entity.text for entity in entities):
            raise RecordError(subject="entity", cause="refused")
        seen = len(self.history)
        super_error: BaseException | None = None
        try:
            super().upsert(collection, entities)
        except BaseException as error:  # it may have been applied all the same
            super_error = error
        written = {applied.id for applied in self.history[seen:]}
        self.writes += [
            Write(each.id, each.version, each.text_hash)
            for each in entities
            if each.id in written and each.chunk == 0
        ]
        if super_error is not None:
            raise super_error

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        seen = len(self.history)
        try:
            super().delete(collection, ids)
        finally:
            self._note(seen)

    def delete_older(self, *args: Any, **more: Any) -> None:
        seen = len(self.history)
        try:
            super().delete_older(*args, **more)
        finally:
            self._note(seen)

    def _note(self, seen: int) -> None:
        removed = [applied.id for applied in self.history[seen:]]
        self.writes += [Write(id_, None, "") for id_ in removed if id_.endswith("#0")]


class Judge:
    """Holds what a reader of the store sees, and what the dead letters say, against the truth.

    Attributes:
        lost: The process lost its memory, by a crash or with its state: what a row held whose key
            changed may be gone with it.
    """

    def __init__(self, history: Sequence[Change], sent: Sent) -> None:
        self._by_row = {row: [c for c in history if c.row == row] for row in range(ROWS)}
        self._sent = sent
        self._partitions = len(sent.logs)
        self._at = dict.fromkeys(range(ROWS), -1)
        self._judged = 0
        self.lost = False
        self._torn: set[Change] = set()
        self._doubted = _doubted(sent)
        self._again = {
            change for change, times in Counter(sent.changes.values()).items() if times > 1
        }

    def watch(self, simulation: Simulation) -> None:
        """No write since the last call showed a wrong text, or an older version than before."""
        store = simulation.store
        assert isinstance(store, PickyStore)
        for write in store.writes[self._judged :]:
            row = int(write.id.removeprefix("docs:").removesuffix("#0"))
            changes, at = self._by_row[row], self._at[row]
            if write.version is None:
                now = next((i for i, c in enumerate(changes) if c.seen is None and i >= at), -1)
                assert now >= 0, f"{write.id} was removed and should not have been"
            else:
                now = changes.index(self._made(row, write.version))
                values = changes[now].seen
                assert values is not None, f"{write.id} shows what is to be hidden"
                assert not changes[now].bad
                assert write.text_hash == text_hash(values.text), (
                    f"{write.id} shows a wrong text for {changes[now]}"
                )
                assert now >= at, f"{write.id} went back from {changes[at]} to {changes[now]}"
            self._at[row] = now
        self._judged = len(store.writes)

    def forget_deletes(self, simulation: Simulation) -> None:
        """Without recovery state, only the rows that are there are fenced against their past."""
        there = {id_ for id_ in simulation.visible() if id_.endswith("#0")}
        for row in range(ROWS):
            if id_of(row) not in there:
                self._at[row] = -1

    def stop(self, simulation: Simulation) -> None:
        """A process forgets what a row held whose delete it has read, and nothing of its new key."""
        read = {
            number: simulation.process.partitions[f"p{number}"]._next
            for number in range(self._partitions)
        }
        seen = {c for (number, offset), c in self._sent.changes.items() if offset < read[number]}
        deleted = {(c.row, c.lsn) for c in seen if c.new is not None}
        self._torn |= {
            c
            for c in self._sent.changes.values()
            if c.old is not None and (c.old, c.lsn) in deleted and c not in seen
        }

    def rest(self, simulation: Simulation) -> None:
        """Everything is applied, or in a dead letter that has an excuse; all chunks are there."""
        buried = self._buried(simulation)
        visible = self._whole_rows(simulation)
        for row, changes in self._by_row.items():
            found = visible.get(row)
            shown = None if found is None else self._made(row, found)
            allowed = self._allowed(changes, buried)
            assert shown in allowed, f"row {row} shows {shown}, not one of {allowed}"
            if changes and changes[-1] not in buried:
                last = changes[-1]
                assert shown == (last if last.seen is not None else None), (
                    f"{last} is neither applied nor in a dead letter, but {shown} is shown"
                )
        for change in buried:
            assert change.bad or self._excused(change, buried), f"{change} has no excuse"
        assert simulation.foreign_vectors() == []
        assert simulation.left_behind() == []

    def _buried(self, simulation: Simulation) -> list[Change]:
        letters = simulation.letters.letters
        return [
            self._sent.changes[each.position.partition, each.position.offset] for each in letters
        ]

    def _made(self, row: int, version: str) -> Change:
        """The change that a version of a row comes from: a row stays on its partition."""
        return self._sent.changes[row % self._partitions, offset_of(version)]  # type: ignore[arg-type]

    def _whole_rows(self, simulation: Simulation) -> dict[int, str]:
        """Version of each row that is there, with exactly the chunks of its text."""
        stored: dict[int, dict[str, dict[str, Any]]] = {}
        for entity in simulation.store.scan("docs"):
            row = int(entity["rv_row_key"].removeprefix("docs:"))
            stored.setdefault(row, {})[entity["id"]] = entity
        versions: dict[int, str] = {}
        for row, entities in stored.items():
            first = entities[id_of(row)]
            change = self._made(row, first["rv_version"])
            assert change.values is not None
            text = change.values.text
            ranges = HashEmbedder().chunks(text, CHUNK, OVERLAP)
            if _refused_since(self._by_row[row], change):
                # The store refused a row after its surplus chunks had gone.
                ranges = ranges[: len(entities)]
            assert {id_: each["text"] for id_, each in entities.items()} == {
                id_of(row, i): text[start:end] for i, (start, end) in enumerate(ranges)
            }
            assert {each["size"] for each in entities.values()} == {change.lsn}
            versions[row] = first["rv_version"]
        return versions

    def _allowed(self, changes: Sequence[Change], buried: Sequence[Change]) -> list[Change | None]:
        """What a row may be at rest; None is not there."""
        allowed: list[Change | None] = []
        poisoned = False
        for change in reversed(changes):
            poisoned = poisoned or change.fault is Fault.STORE
            if change.bad or (change in buried and change not in self._again):
                continue  # of one that was sent again, another copy may have been applied
            allowed.append(change if change.seen is not None else None)
            # The store refuses a row when what it superseded on its way is gone.
            if not poisoned and not (change.partial and self._excused(change, buried)):
                return allowed
        return [*allowed, None]

    def _excused(self, change: Change, buried: Sequence[Change]) -> bool:
        """Whether what a change left out may be known nowhere."""
        if not change.partial:
            return False
        if change.old is not None and (self.lost or change in self._torn):
            return True
        if change in self._doubted:
            return True
        before = self._before(change)
        return (
            before is None
            or before.values is None
            or before.values.hidden
            or before.bad
            or before in buried
            or self._excused(before, buried)
        )

    def _before(self, change: Change) -> Change | None:
        """The change that it follows, of its old key if that changed."""
        row = change.row if change.old is None else change.old
        earlier = [c for c in self._by_row[row] if c.lsn < change.lsn]
        return earlier[-1] if earlier else None


def _doubted(sent: Sent) -> set[Change]:
    """Changes after an unreadable record that is, or may be, the newer one: it has no position.

    So where it is sent again, it may be newer than all that its row was known to be by then.
    """
    doubted: set[Change] = set()
    garbled: dict[int, int] = {}
    newest: dict[int, int] = {}
    for _, change in sorted(sent.changes.items(), key=lambda item: item[0]):
        newest[change.row] = max(newest.get(change.row, 0), change.lsn)
        if change.fault is Fault.DECODE:
            garbled[change.row] = newest[change.row]
        elif change.lsn <= garbled.get(change.row, 0):
            doubted.add(change)
    return doubted


def _refused_since(changes: Sequence[Change], change: Change) -> bool:
    return any(c.fault is Fault.STORE for c in changes[changes.index(change) :])
