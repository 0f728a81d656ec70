"""What a reader of the store may see, held against what the database did; looked at in every step.

It knows the truth about every change, and for which changes a dead letter is an excuse.
"""

from collections.abc import Sequence
from functools import lru_cache

from operators.changes.events import DeadLetter
from operators.changes.row_key import RowKey
from operators.changes.shards import shard_of
from operators.changes.text_hash import text_hash
from operators.changes.version import Version, offset_of
from operators.store.protocol import Entity, entity_id
from tests.fakes import HashEmbedder
from tests.simulation.history import Change, Fault, Topic
from tests.simulation.store import FaultyStore, Written, vector_of

CHUNK, OVERLAP = 8, 2

MAX_CHUNKS = 12
"""More than any text here is cut into."""


class Violation(AssertionError):
    """An invariant does not hold."""


def hold(condition: bool, invariant: str, what: str) -> None:
    """Refuse a world in which an invariant does not hold.

    Raises:
        Violation: It does not.
    """
    if not condition:
        raise Violation(f"{invariant}: {what}")


class Oracle:
    """The truth about rows, and how far each has come in the store.

    Attributes:
        rewound: State was lost or taken back, and somebody accepted that.
    """

    def __init__(
        self, history: Sequence[Change], topic: Topic, rows: int, store: FaultyStore, chunks: bool
    ) -> None:
        self._rows = range(rows)
        self._topic = topic
        self._store = store
        self._chunks = chunks
        self._by_row = {row: [c for c in history if c.row == row] for row in self._rows}
        self._index = {(c.row, c.lsn): i for cs in self._by_row.values() for i, c in enumerate(cs)}
        self._shard = {row: int(shard_of(f"docs:{row}")) for row in self._rows}
        self._at = dict.fromkeys(self._rows, -1)
        self._judged = 0
        self._touched: dict[int, None] = {}
        self.rewound = False
        self._doubted = _doubted(topic)
        # I7: what was written before this start, and what has been written again since.
        self._before: set[tuple[int, Version]] = set()
        self._since: set[tuple[int, Version]] = set()
        self.again: set[int] = set()
        # I8: letters of this start.
        self._letters = 0
        self._told: set[tuple[int, int]] = set()

    # ------------------------------------------------------------------ in every step

    def watch(self) -> None:
        """No write since the last call showed what is wrong, or older than what was there."""
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
        index = self._index[row, change.lsn]
        where = f"{entity.id} @ {change.lsn}"
        values = change.values
        hold(values is not None, "I3", f"{where}: shown though it was deleted then")
        assert values is not None
        hold(not change.bad, "I8", f"{where}: shown though its record is bad")
        pieces = pieces_of(values.text, self._chunks)
        # The first chunk may tell of more while those are being removed.
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
            invariant = "I3" if before.values is None else "I4"
            hold(False, invariant, f"{where}: goes back from {before.lsn}")
        if entity.chunk == 0:
            self._at[row] = index
            self._touched[row] = None
            self._since.add((row, entity.version))
            if (row, entity.version) in self._before:
                self.again.add(row)

    def _removed(self, id_: str) -> None:
        key, _, chunk = id_.partition("#")
        row = _row_of(key)
        self._touched[row] = None
        if chunk != "0":
            return
        changes, at = self._by_row[row], self._at[row]
        now = next((i for i, c in enumerate(changes) if c.values is None and i >= at), -1)
        hold(now >= 0, "I4", f"{id_}: removed though it is there for ever")
        self._at[row] = now

    def _emptied(self, written: Written) -> None:
        assert written.emptied is not None
        lsn = int(written.emptied.split(".")[2], 16)
        for row in self._rows:
            if self._shard[row] in written.shards:
                self._at[row] = max(self._at[row], self._index[row, lsn])

    def settled(self) -> None:
        """A lane has written what it took: the rows have all their chunks, and no others."""
        self.watch()
        for row in self._touched:
            self._whole(row)

    def take_touched(self) -> None:
        """Forget which rows were written: somebody else writes now, or they were cut off."""
        self.watch()
        self._touched.clear()

    def _whole(self, row: int) -> Change | None:
        """The change that is shown of a row, with exactly the chunks of its text."""
        rows = self._store._collections["docs"].rows
        ids = {i: id_of(row, i) for i in range(MAX_CHUNKS)}
        found = {i: rows[id_] for i, id_ in ids.items() if id_ in rows}
        if not found:
            return None
        hold(0 in found, "I5", f"row {row}: chunks {sorted(found)} without the first")
        first = found[0]
        change = self._made(row, first["rv_version"])
        assert change.values is not None
        wanted = pieces_of(change.values.text, self._chunks)
        hold(
            first["rv_chunks"] == len(wanted) or self._refused_since(change),
            "I5",
            f"row {row} @ {change.lsn}: tells of {first['rv_chunks']} chunks",
        )
        # The store refuses a row when what was there before may be half removed already.
        whole = sorted(found) == list(range(len(wanted)))
        hold(
            whole or self._refused_since(change),
            "I5",
            f"row {row} @ {change.lsn}: chunks {sorted(found)} of {len(wanted)}",
        )
        for i, each in found.items():
            hold(
                self._refused_since(change)
                or (each["rv_version"] == first["rv_version"] and each["text"] == wanted[i][1]),
                "I5",
                f"row {row} @ {change.lsn}: chunk {i} of another version",
            )
        return change

    def _refused_since(self, change: Change) -> bool:
        later = self._by_row[change.row][self._index[change.row, change.lsn] :]
        return any(c.fault is Fault.STORE for c in later)

    def letters(self, letters: Sequence[DeadLetter], *, unsure: bool) -> None:
        """A letter comes once, but where its sender could not know.

        Args:
            letters: All that were ever sent.
            unsure: The topic has answered with an error.
        """
        for letter in letters[self._letters :]:
            place = (letter.position.partition, letter.position.offset)
            hold(place in self._topic.places, "I8", f"a letter of nothing: {place}")
            hold(unsure or place not in self._told, "I8", f"a second letter of {place}")
            self._told.add(place)
        self._letters = len(letters)

    # ------------------------------------------------------------------ at a start

    def started(self) -> None:
        """A process has started: what it writes again is counted from here."""
        self.take_touched()
        self._before |= self._since
        self._since.clear()
        self.again.clear()
        self._told.clear()

    def accepted(self) -> None:
        """Somebody goes on with a state that is lost or old.

        Only the rows that are there are fenced against their past then, and what was written before is
        written again.
        """
        self.rewound = True
        self._before.clear()
        self._since.clear()
        for row in self._rows:
            if id_of(row) not in self._store._collections["docs"].rows:
                self._at[row] = -1

    # ------------------------------------------------------------------ at rest

    def rest(self, letters: Sequence[DeadLetter]) -> None:
        """Everything is applied, or in a dead letter that has an excuse; all chunks are there."""
        places = {(each.position.partition, each.position.offset) for each in letters}
        buried = {self._topic.places[place] for place in places}
        for place, change in self._topic.places.items():
            if change.fault is Fault.DECODE:
                hold(place in places, "I8", f"no letter of the unreadable record {place}")
        for row, changes in self._by_row.items():
            shown = self._whole(row)
            allowed = self._allowed(changes, buried)
            hold(
                shown in allowed,
                "I1",
                f"row {row} shows {_lsn(shown)}, not {list(map(_lsn, allowed))}",
            )
            if changes and changes[-1] not in buried:
                last = changes[-1] if changes[-1].values is not None else None
                hold(
                    shown == last,
                    "I2",
                    f"row {row} shows {_lsn(shown)}, and its last is {_lsn(last)}",
                )
        for change in sorted(buried, key=lambda c: (c.lsn, c.row)):
            excused = change.bad or self._excused(change, buried)
            hold(excused, "I2", f"row {change.row} @ {change.lsn}: in a dead letter without need")
        ids = self._store._collections["docs"].rows.keys()
        rows = {id_.partition("#")[0] for id_ in ids}
        wanted = {f"docs:{row}" for row in self._rows}
        hold(rows <= wanted, "I5", f"rows that never were: {sorted(rows - wanted)}")

    def _made(self, row: int, version: str) -> Change:
        """The change that a version of a row comes from: a row stays on its partition."""
        place = (self._topic.partition_of(row), offset_of(Version(version)))
        return self._topic.places[place]

    def _allowed(self, changes: Sequence[Change], buried: set[Change]) -> list[Change | None]:
        """What a row may be at rest; None is not there."""
        allowed: list[Change | None] = []
        poisoned = False
        for change in reversed(changes):
            poisoned = poisoned or change.fault is Fault.STORE
            if change.bad:
                continue
            if change in buried:
                # One copy of it may be in a letter, and another applied.
                allowed.append(change)
                continue
            allowed.append(change if change.values is not None else None)
            # The store refuses a row when what it superseded on its way is gone.
            if not poisoned and not (change.partial and self._excused(change, buried)):
                return allowed
        return [*allowed, None]

    def _excused(self, change: Change, buried: set[Change]) -> bool:
        """Whether what a change left out may be known nowhere."""
        if not change.partial:
            return False
        if self.rewound or change.old is not None or change in self._doubted:
            return True
        before = self._before_of(change)
        return (
            before is None
            or before.values is None
            or before.bad
            or before in buried
            or self._excused(before, buried)
        )

    def _before_of(self, change: Change) -> Change | None:
        index = self._index[change.row, change.lsn]
        return self._by_row[change.row][index - 1] if index else None


def _doubted(topic: Topic) -> set[Change]:
    """Changes with an unreadable record before them that is older, or may be: it has no position.

    That is so where it, or they, are sent again.
    """
    doubted: set[Change] = set()
    garbled: dict[int, int] = {}
    sent: dict[int, int] = {}
    for _, change in sorted(topic.places.items(), key=lambda item: item[0]):
        if change.fault is Fault.DECODE:
            garbled[change.row] = max(
                garbled.get(change.row, 0), sent.get(change.row, 0), change.lsn
            )
        elif change.lsn <= garbled.get(change.row, 0):
            doubted.add(change)
        sent[change.row] = max(sent.get(change.row, 0), change.lsn)
    return doubted


def _row_of(key: str) -> int:
    return int(key.removeprefix("docs:"))


def id_of(row: int, chunk: int = 0) -> str:
    """Entity id of a row."""
    return entity_id(RowKey(f"docs:{row}"), chunk)


def _lsn(change: Change | None) -> int | None:
    return None if change is None else change.lsn


@lru_cache(maxsize=4096)
def pieces_of(text: str, chunks: bool) -> list[tuple[int, str]]:
    """(start, text) of what becomes an entity each."""
    ranges = HashEmbedder().chunks(text, CHUNK, OVERLAP) if chunks else [(0, len(text))]
    return [(start, text[start:end]) for start, end in ranges]
