"""Columns that Debezium left out, carried forward from what is known of the row.

An update that leaves a large value alone does not send it (TOAST). The last known value is in an
earlier version of the row: in the same window, in the store, under the row's old key, or, where a
database is named, in SQL. It is looked for in that order, and only in the version that the update
follows: a value of any other may be an old one. Where a database is named, what is not in the window
is never taken from an old key.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeAlias

from operators.errors import RecordError
from operators.events import OFFSET_DIGITS, Delete, Move, PartialRow, Row, RowKey, Version
from operators.rendering import Rendered, Rules, cut, texts_of
from operators.retry import RetryPolicy
from operators.store import Entity
from operators.table import TableSection

KEPT_CHARACTERS = 64 * 1024 * 1024
"""How much of what rows held whose key changed is kept, until their new keys take it over."""

MIN_KEPT = 1_024

MOVE_WAIT_S = 10.0
"""For how long a row waits for the change that took it from its old key to be read at all."""


class Database(Protocol):
    """The table itself; `operators.reselect` has the real one."""

    def select(
        self, table: TableSection, origin: tuple[str, str], row_key: RowKey, columns: Sequence[str]
    ) -> Mapping[str, Any] | None:
        """The columns of a row as they are now; None if the row is not there."""
        ...


@dataclass(frozen=True, slots=True)
class Donor:
    """What one version of a row can give.

    Attributes:
        texts: Columns of the template, as text.
        columns: Mirrored columns, by field name.
    """

    version: Version
    texts: Mapping[str, str | None]
    columns: Mapping[str, Any]


def donor_of_row(row: Row) -> Donor:
    """A row that is on its way to the store."""
    return Donor(row.version, texts_of(row), row.columns)


def donor_of_entities(entities: Sequence[Entity]) -> Donor:
    """A row as the store has it.

    Args:
        entities: All chunks of the row, in order.
    """
    first = entities[0]
    text = joined((entity.start, entity.text) for entity in entities)
    return Donor(first.version, cut(text, first.spans), first.columns)


def may_give(donor: Donor, partial: PartialRow) -> bool:
    """Whether the donor is the version that the partial row follows.

    It may also be a later one, up to the row itself: after a crash the store is ahead of what is
    known, by changes that the row has superseded in its window and that left the columns out too.
    """
    return _follows(donor, partial.after, partial.version)


def _follows(donor: Donor | Row | PartialRow, after: str | None, version: str) -> bool:
    return after != "" and (after or "") <= donor.version <= version


def _donor_of(entities: Sequence[Entity] | None, partial: PartialRow) -> Donor | None:
    """The stored version of a row, if it is the one that the partial row follows."""
    if not entities:
        return None
    donor = donor_of_entities(entities)
    return donor if may_give(donor, partial) else None


def joined(chunks: Iterable[tuple[int, str]]) -> str:
    """The text that chunks were cut from, which may overlap: (start, text), in order."""
    text = ""
    for start, piece in chunks:
        text = text[:start] + piece
    return text


Held: TypeAlias = Row | PartialRow | Donor | None
"""What a row held whose key changed. A partial one waits itself for what its own old key held."""


class Stage(Enum):
    """How far the old key's side is with a change of a key."""

    UNKNOWN = 0
    READ = 1
    SENT = 2
    TOLD = 3


class Moves:
    """What rows held whose primary key changed, for the rows that they became.

    The delete of the old key and the new key's row lie in different shards, and in different lanes.
    The old key's side puts here what the row held, the other one takes it. It is a memory of this
    process: after a crash in between, or in a flow of several processes, the value has to come from
    the database, or the new row becomes a dead letter. Any thread may call.
    """

    def __init__(self, characters: int = KEPT_CHARACTERS) -> None:
        self._lock = threading.RLock()
        self._coming: dict[tuple[RowKey, str], Stage] = {}
        self._kept: OrderedDict[tuple[RowKey, str], Held] = OrderedDict()
        self._characters = characters
        self._size = 0
        self._error: BaseException | None = None

    def read(self, old_key: RowKey, version: Version) -> None:
        """Say that a change of a key was read; what the row held will be told."""
        self._advance(old_key, version, Stage.READ)

    def send(self, old_key: RowKey, version: Version) -> None:
        """Say that it is on its way to the lane, which will tell."""
        self._advance(old_key, version, Stage.SENT)

    def _advance(self, old_key: RowKey, version: Version, stage: Stage) -> None:
        move = (old_key, _position(version))
        with self._lock:
            if move not in self._kept:
                self._coming[move] = stage

    def put(self, old_key: RowKey, version: Version, held: Held) -> None:
        """Keep what the old key held; None if that is not known."""
        move = (old_key, _position(version))
        with self._lock:
            self._coming.pop(move, None)
            if move in self._kept:
                before = self._kept.pop(move)
                self._size -= _size(before)
                # A delete that is sent again finds nothing: the first one told.
                held = before if held is None else held
            self._kept[move] = held
            self._size += _size(held)
            while self._size > self._characters and len(self._kept) > 1:
                self._size -= _size(self._kept.popitem(last=False)[1])

    def stage(self, old_key: RowKey, version: str) -> Stage:
        """How far a change of a key is, and all that it rests on."""
        move = (old_key, _position(version))
        with self._lock:
            if self._error is not None:
                raise self._error
            held = self._kept.get(move)
            if isinstance(held, PartialRow) and held.old_key is not None:
                return self.stage(held.old_key, held.after or "")
            return Stage.TOLD if move in self._kept else self._coming.get(move, Stage.UNKNOWN)

    def take(self, old_key: RowKey, version: str) -> Held:
        """What the old key held, once."""
        move = (old_key, _position(version))
        with self._lock:
            if move not in self._kept:
                return None
            held = self._kept.pop(move)
            self._size -= _size(held)
            return held

    def fail(self, error: BaseException) -> None:
        """Let nobody wait for a lane that has ended."""
        with self._lock:
            self._error = error


def _size(held: Held) -> int:
    if held is None:
        return MIN_KEPT
    texts = (held.text,) if isinstance(held, Row) else held.texts.values()
    values = (*texts, *held.columns.values())
    return MIN_KEPT + sum(len(value) for value in values if isinstance(value, str))


def _position(version: str) -> str:
    """The part that the two halves of a change of the key have in common: all but the offset."""
    return version[:-OFFSET_DIGITS]


class Completer:
    """Gives partial rows what Debezium left out.

    Args:
        rules: By topic.
        moves: What rows held whose key changed.
        retry: For the database.
        database: To be asked for what is nowhere else.
    """

    def __init__(
        self,
        rules: Mapping[str, Rules],
        moves: Moves,
        retry: RetryPolicy,
        database: Database | None = None,
    ) -> None:
        self._rules = rules
        self._moves = moves
        self._retry = retry
        self._database = database

    def from_row(self, partial: PartialRow, before: Row | PartialRow) -> Rendered:
        """What a version gives that is on its way to the store, written by nobody yet.

        Raises:
            RecordError: The two together are no row that can be stored.
        """
        if partial.old_key is not None or before.version < (partial.after or ""):
            return partial
        if partial.after == "":
            return partial
        renderer = self._rules[partial.position.topic].renderer
        texts = before.texts if isinstance(before, PartialRow) else texts_of(before)
        row = renderer.complete(partial, texts, before.columns)
        if isinstance(row, PartialRow) and isinstance(before, PartialRow):
            # What is still missing, the version before this one lacks as well: ask where it would.
            row = row._replace(old_key=before.old_key, after=before.after)
        return row

    def complete(self, partial: PartialRow, entities: Sequence[Entity] | None) -> Row | Delete:
        """The whole row.

        Args:
            partial: A row to be written.
            entities: The row as the store has it.

        Raises:
            RecordError: Nothing has the version that the row follows.
        """
        rule = self._rules[partial.position.topic]
        row: Rendered = partial
        if partial.old_key is not None:
            held = self._from_old_key(partial)
            if self._database is not None:
                # That may itself be what the database gave: the value of whichever row had the old
                # key by then, and nothing would ever correct it here. Under the new key it can be
                # too new as well, but what made it so follows.
                held = None
            donor = held or _donor_of(entities, partial)
            why = "what the row held under its old key is not known"
        else:
            donor = _donor_of(entities, partial)
            why = "the collection does not hold the version before this one"
        if donor is not None:
            row = rule.renderer.complete(partial, donor.texts, donor.columns)
            why = "the version before this one does not hold it either"
        if isinstance(row, PartialRow) and self._database is not None:
            row = self._from_database(self._database, row)
            why = "the database does not have it either"
        if isinstance(row, PartialRow):
            raise rule.renderer.left_out(row, why)
        return row

    def waits(self, partial: PartialRow) -> bool:
        """Whether another lane is about to tell what the row held under its old key."""
        if partial.old_key is None:
            return False
        return self._moves.stage(partial.old_key, partial.after or "") in (Stage.READ, Stage.SENT)

    def hand_over(
        self, move: Move, before: Row | PartialRow | None, entities: Sequence[Entity] | None
    ) -> None:
        """Keep what a row held whose key changed.

        Args:
            move: The change of the key.
            before: The row as it is on its way to the store; looked at first.
            entities: The row as the store has it.
        """
        try:
            held = self._held(move, before, entities)
        except RecordError:
            held = None  # what it was could not be stored either
        self._moves.put(move.delete.row_key, move.delete.version, held)

    def _held(
        self, move: Move, before: Row | PartialRow | None, entities: Sequence[Entity] | None
    ) -> Held:
        held: Rendered | None = before
        if move.held is not None:
            held = move.held if before is None else self.from_row(move.held, before)
        elif before is not None and not _follows(before, move.after, move.delete.version):
            return None  # what came between was refused
        if isinstance(held, PartialRow) and held.old_key is None:
            donor = _donor_of(entities, held)
            if donor is not None:
                renderer = self._rules[held.position.topic].renderer
                held = renderer.complete(held, donor.texts, donor.columns)
            return held if isinstance(held, Row) else None
        if held is not None:
            return None if isinstance(held, Delete) else held
        donor = donor_of_entities(entities) if entities else None
        return donor if donor and _follows(donor, move.after, move.delete.version) else None

    def fail(self, error: BaseException) -> None:
        """Let no lane wait for one that has ended."""
        self._moves.fail(error)

    def _from_old_key(self, partial: PartialRow) -> Donor | None:
        """What the row held before its key changed; perhaps it had changed before that as well."""
        assert partial.old_key is not None
        held = self._moves.take(partial.old_key, partial.after or "")
        if isinstance(held, PartialRow):
            donor = None if held.old_key is None else self._from_old_key(held)
            if donor is None:
                return None
            renderer = self._rules[held.position.topic].renderer
            row = renderer.complete(held, donor.texts, donor.columns)
            return donor_of_row(row) if isinstance(row, Row) else None
        return donor_of_row(held) if isinstance(held, Row) else held

    def _from_database(self, database: Database, partial: PartialRow) -> Rendered:
        rule = self._rules[partial.position.topic]
        values = self._retry.call(
            lambda: database.select(rule.table, partial.origin, partial.row_key, partial.missing)
        )
        if values is None:
            # Gone by now; its own delete follows.
            return Delete(partial.row_key, partial.version, partial.position, partial.source_ts_ms)
        return rule.renderer.complete_from_values(partial, values)
