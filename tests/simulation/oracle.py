"""The oracle: compares what a reader of the store sees, always and at rest, with the database's history.

It checks all histories: those of the seeded runs and those of `tests/properties`.
"""

from collections.abc import Sequence
from typing import Any

from operators.changes.events import DeadLetter
from operators.changes.shards import shard_of
from operators.changes.text_hash import text_hash
from operators.changes.version import Version
from operators.store.protocol import Entity
from operators.toast.key_changes import MOVE_WAIT_S
from tests.simulation.excuses import Excuses
from tests.simulation.flow import Flow
from tests.simulation.history import Change, Fault
from tests.simulation.store import FaultyStore, Written, vector_of
from tests.simulation.tables import pieces_of
from tests.simulation.topic import ANOTHER_LOG, Topic


class Violation(AssertionError):
    """An invariant does not hold."""


def hold(condition: bool, invariant: str, what: str) -> None:
    """Raise unless an invariant holds.

    Raises:
        Violation: The invariant does not hold.
    """
    if not condition:
        raise Violation(f"{invariant}: {what}")


class Oracle:
    """The expected rows, and the newest version of each that the store has shown.

    Attributes:
        excuses: Decides for which changes a dead letter is right.
        again: Rows that were written again since the last start.
    """

    def __init__(self, topic: Topic, store: FaultyStore) -> None:
        self._topic = topic
        self._store = store
        self._chunked = topic.table.chunked
        self._rows = range(topic.rows)
        self._by_row: dict[int, list[Change]] = {row: [] for row in self._rows}
        self._index: dict[Change, int] = {}
        for change in topic.history:
            self._index[change] = len(self._by_row[change.row])
            self._by_row[change.row].append(change)
        self._emptied_at = {(c.row, c.lsn): self._index[c] for c in topic.history if c.emptied}
        self._shard = {row: int(shard_of(f"docs:{row}")) for row in self._rows}
        self._at = dict.fromkeys(self._rows, -1)
        self._judged = 0
        self._touched: set[int] = set()
        self.excuses = Excuses(topic)
        # I7: writes before this start, writes since, and how many may be repeated.
        self._before: set[tuple[int, Version]] = set()
        self._since: set[tuple[int, Version]] = set()
        self._bound = 0
        self.again: set[int] = set()
        # I8: dead letters of this start.
        self._letters = 0
        self._told: set[tuple[int, int]] = set()

    # ------------------------------------------------------------------ in every step

    def watch(self) -> None:
        """Check the writes since the last call: none shows a wrong or older version."""
        written = self._store.written
        for each in written[self._judged :]:
            if each.emptied is not None:
                self._emptied(each)
            elif each.entity is None:
                self._removed(each.id)
            else:
                self._shown(each.entity)
        self._judged = len(written)

    def _shown(self, entity: Entity) -> None:
        row = _row_of(entity.row_key)
        change = self._made(row, entity.version)
        index = self._index[change]
        where = f"{entity.id} @ {change.lsn}"
        values = change.seen
        hold(values is not None, "I3", f"{where}: shown though it was deleted or hidden then")
        assert values is not None
        hold(not change.bad, "I8", f"{where}: shown though its record is bad")
        pieces = pieces_of(values.text, self._chunked)
        # While surplus chunks are being removed, the first chunk may still name a higher count.
        hold(entity.chunks >= len(pieces), "I5", f"{where}: of {entity.chunks} chunks")
        start, text = pieces[entity.chunk]
        hold(
            (entity.start, entity.text, entity.text_hash) == (start, text, text_hash(values.text)),
            "I6",
            f"{where}: another text",
        )
        hold(
            entity.vector.tobytes() == vector_of(text).tobytes(),
            "I6",
            f"{where}: the vector of another text",
        )
        hold(entity.columns["size"] == change.lsn, "I6", f"{where}: another row's columns")
        at = self._at[row]
        if index < at:
            before = self._by_row[row][at]
            invariant = "I3" if before.seen is None else "I4"
            hold(False, invariant, f"{where}: goes back from {before.lsn}")
        self._touched.add(row)
        if entity.chunk == 0:
            self._at[row] = index
            self._since.add((row, entity.version))
            if (row, entity.version) in self._before:
                self.again.add(row)

    def _removed(self, id_: str) -> None:
        key, _, chunk = id_.partition("#")
        row = _row_of(key)
        self._touched.add(row)
        if chunk != "0":
            return
        changes, at = self._by_row[row], self._at[row]
        now = next((i for i, c in enumerate(changes) if c.seen is None and i >= at), -1)
        hold(now >= 0, "I4", f"{id_}: removed though it is there for ever")
        self._at[row] = now

    def _emptied(self, written: Written) -> None:
        assert written.emptied is not None
        lsn = int(written.emptied.split(".")[2], 16) % ANOTHER_LOG
        for row, changes in self._by_row.items():
            # A change without a position does not count as older than a TRUNCATE.
            if (row, lsn) not in self._emptied_at:
                continue  # of another physical table
            emptied = self._emptied_at[row, lsn]
            ahead = changes[max(0, self._at[row]) : emptied]
            if any(each.part != changes[emptied].part for each in ahead):
                continue  # of a server to which the row, as far as it was read, has not gone yet
            if self._shard[row] in written.shards and not any(c.unpositioned for c in changes):
                self._at[row] = max(self._at[row], self._emptied_at[row, lsn])

    def look(self, flow: Flow, letters: Sequence[DeadLetter], *, unsure: bool = False) -> None:
        """Check everything that must hold in every step.

        Args:
            flow: The flow in its current state.
            letters: All dead letters that were ever sent.
            unsure: Whether the dead-letter topic has answered with an error.
        """
        self.watch()
        if self._touched and not flow.is_writing():
            # Nothing is half written, so each row has all its chunks and no others.
            entities = self._entities()
            for row in self._touched & entities.keys():
                self._whole(row, entities[row])
            self._touched.clear()
        self.letters(letters, unsure=unsure)
        again = len(self.again)
        hold(again <= self._bound, "I7", f"{again} rows written again, of {self._bound}")
        for number, (read, (offset, cap)) in enumerate(
            zip(flow.read(), flow.offsets(), strict=False)
        ):
            hold(
                read - offset <= cap,
                "I7",
                f"{number}: {read - offset} records in an epoch of {cap}",
            )

    def letters(self, letters: Sequence[DeadLetter], *, unsure: bool) -> None:
        """Check that no dead letter comes twice, unless the sender could not know of the first.

        Args:
            letters: All dead letters that were ever sent.
            unsure: Whether the dead-letter topic has answered with an error.
        """
        for letter in letters[self._letters :]:
            place = (letter.position.partition, letter.position.offset)
            hold(place in self._topic.places, "I8", f"a letter of nothing: {place}")
            hold(unsure or place not in self._told, "I8", f"a second letter of {place}")
            self._told.add(place)
        self._letters = len(letters)

    # ------------------------------------------------------------------ at an end and at a start

    def crashed(self) -> None:
        """Note a crash, which loses the values of rows whose key changed."""
        self.watch()
        self.excuses.lost = self.excuses.crashed = True

    def stopped(self, flow: Flow) -> None:
        """Note a clean stop of the flow."""
        self.excuses.stopped(flow.read())

    def starting(self) -> None:
        """Note a start: repeated writes and dead letters are counted from here."""
        self.watch()
        self._before |= self._since
        self._since.clear()
        self._touched.clear()
        self.again.clear()
        self._told.clear()

    def accepted(self, *, older: bool = False) -> None:
        """Note that a lost or old state was accepted.

        After that only rows that the store has are protected against older versions, and earlier writes
        are repeated.

        Args:
            older: The state is an old one, so the log is not read again from its beginning.
        """
        self.crashed()
        self.excuses.rewound |= older
        self._before.clear()
        self._since.clear()
        for row, found in self._entities().items():
            if len(found) != found[0]["rv_chunks"]:
                self.excuses.halved.add(row)
        self._at |= dict.fromkeys(set(self._rows) - self._entities().keys(), -1)

    def started(self, flow: Flow) -> None:
        """Note that the flow has started: set the limit of I7 for repeated writes."""
        bound = flow.pending_at_start
        for number, (offset, cap) in enumerate(flow.offsets()):
            ahead = max(0, flow.emitted[number] - offset)
            hold(ahead <= cap, "I10", f"goes on with {number}@{offset}, {ahead} ahead of {cap}")
            bound += ahead
        self._bound = bound

    def took(self, seconds: float) -> None:
        """Note how long one half of a key change may have waited for the other."""
        self.excuses.lost |= seconds >= MOVE_WAIT_S

    # ------------------------------------------------------------------ at rest

    def rest(self, letters: Sequence[DeadLetter]) -> None:
        """Check the store at rest: every change is applied or rightly in a dead letter, with all chunks."""
        places = {(each.position.partition, each.position.offset) for each in letters}
        buried = {self._topic.places[place] for place in places}
        for place, change in self._topic.places.items():
            if change.fault is Fault.DECODE:
                hold(place in places, "I8", f"no letter of the unreadable record {place}")
        entities = self._entities()
        hold(entities.keys() <= set(self._rows), "I5", f"rows that never were: {sorted(entities)}")
        for row, changes in self._by_row.items():
            shown = self._whole(row, entities[row]) if row in entities else None
            allowed = self._allowed(changes, buried)
            hold(
                shown in allowed,
                "I1",
                f"row {row} shows {_lsn(shown)}, not {list(map(_lsn, allowed))}",
            )
            if changes and changes[-1] not in buried:
                last = changes[-1] if changes[-1].seen is not None else None
                hold(
                    shown is last,
                    "I2",
                    f"row {row} shows {_lsn(shown)}, and its last is {_lsn(last)}",
                )
        for change in sorted(buried, key=lambda c: (c.lsn, c.row)):
            excused = change.bad or self.excuses.excused(change, buried)
            hold(excused, "I2", f"row {change.row} @ {change.lsn}: in a dead letter without need")

    def _entities(self) -> dict[int, dict[int, dict[str, Any]]]:
        """The stored entities, by row and chunk."""
        entities: dict[int, dict[int, dict[str, Any]]] = {}
        for id_, entity in self._store._collections["docs"].rows.items():
            key, _, chunk = id_.partition("#")
            entities.setdefault(_row_of(key), {})[int(chunk)] = entity
        return entities

    def _whole(self, row: int, found: dict[int, dict[str, Any]]) -> Change:
        """The change that the store shows of a row; checks that the chunks are those of its text."""
        hold(0 in found, "I5", f"row {row}: chunks {sorted(found)} without the first")
        change = self._made(row, found[0]["rv_version"])
        where = f"row {row} @ {change.lsn}"
        wanted, told = self._pieces(change), found[0]["rv_chunks"]
        # When the store refuses a row, the row before it may be half removed already.
        refused = self._refused_since(change)
        same = told == len(wanted) and sorted(found) == list(range(len(wanted)))
        hold(
            same or refused,
            "I5",
            f"{where}: chunks {sorted(found)} of {len(wanted)}, and it tells of {told}",
        )
        for i, each in found.items():
            made = self._made(row, each["rv_version"])
            hold(made is change or refused, "I5", f"{where}: chunk {i} of another version")
            _, text = self._pieces(made)[i]
            right = each["size"] == made.lsn and each["text"] == text
            hold(right, "I6", f"{where}: chunk {i} is not what its version says")
            vector = each["vector"].tobytes()
            hold(vector == vector_of(text).tobytes(), "I6", f"{where}: chunk {i}: another's vector")
        return change

    def _pieces(self, change: Change) -> list[tuple[int, str]]:
        """The (start, text) of each entity of a change."""
        hold(change.seen is not None, "I1", f"row {change.row} @ {change.lsn}: shown though hidden")
        assert change.seen is not None
        return pieces_of(change.seen.text, self._chunked)

    def _refused_since(self, change: Change) -> bool:
        later = self._by_row[change.row][self._index[change] :]
        return any(c.fault is Fault.STORE for c in later)

    def _made(self, row: int, version: str) -> Change:
        change = self._topic.made_by(version)
        hold(change.row == row, "I1", f"row {row} has the version of row {change.row}")
        return change

    def _allowed(self, changes: Sequence[Change], buried: set[Change]) -> list[Change | None]:
        """The changes that the store may show of a row at rest; None if it may be absent."""
        allowed: list[Change | None] = []
        poisoned = refused = False
        for change in reversed(changes):
            poisoned = poisoned or change.fault is Fault.STORE
            # If a change was sent or read again, another copy of it may be applied.
            once = self._topic.copies[change] == 1 and not self.excuses.crashed
            # A version that was read after it, from another partition, was dropped as older.
            refused = refused or change in buried
            if change.bad or (change in buried and once):
                continue
            allowed.append(change if change.seen is not None else None)
            poisoned = poisoned or (refused and self.excuses.is_spread(change.row))
            # When the store refuses a row, the versions that it superseded are gone.
            if not poisoned and not (change.partial and self.excuses.excused(change, buried)):
                return allowed
        return [*allowed, None]


def _row_of(key: str) -> int:
    return int(key.removeprefix("docs:"))


def _lsn(change: Change | None) -> int | None:
    return None if change is None else change.lsn
