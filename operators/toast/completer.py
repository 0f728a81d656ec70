"""Gives partial rows what Debezium left out, from what is known of the row."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from operators.changes.events import Delete
from operators.changes.row_key import RowKey
from operators.changes.rows import Move, PartialRow, Row
from operators.changes.version import other_place
from operators.contract.table import TableSection
from operators.errors import RecordError
from operators.rendering.renderer import Rendered, Rules
from operators.retry import RetryPolicy
from operators.store.protocol import Entity
from operators.toast.donor import Donor, donor_of_entities, donor_of_row
from operators.toast.key_changes import Held, Moves, MoveStage
from operators.toast.resolver import donor_in_lane, held_in_lane


class Database(Protocol):
    """The table itself; `operators.postgres.reselect` has the real one."""

    def select(
        self, table: TableSection, origin: tuple[str, str], row_key: RowKey, columns: Sequence[str]
    ) -> Mapping[str, Any] | None:
        """The columns of a row as they are now; None if the row is not there."""
        ...


class Completer:
    """Completes partial rows in the lane: brings what the resolver's rules need, and asks the database.

    All lanes share it; it keeps nothing itself.

    Args:
        rules: By topic.
        moves: What rows held before their key changed.
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

    def complete(self, partial: PartialRow, entities: Sequence[Entity] | None) -> Row | Delete:
        """The whole row; a delete if the database has no such row any more.

        Args:
            partial: A row to be written next.
            entities: The row as the store has it.

        Raises:
            RecordError: Nobody may give what it lacks, or with that it cannot be stored.
        """
        rule = self._rules[partial.position.topic]
        row: Rendered = partial
        # Even where it is not used: nobody else takes it out of `moves`.
        held = self._take_from_old_key(partial)
        stored = donor_of_entities(entities) if entities else None
        donor = donor_in_lane(partial, held, stored, database=self._database is not None)
        if donor is not None:
            row = rule.renderer.complete(partial, donor.texts, donor.columns)
            why = "the version before this one does not hold it either"
        elif partial.old_key is not None:
            why = "what the row held under its old key is not known"
        elif stored is not None and other_place(stored.version, partial.version):
            why = (
                "the version of the collection comes from another partition or topic: the one before "
                "this may lie there and not be read yet"
            )
        else:
            why = "the collection does not hold the version before this one"
        if isinstance(row, PartialRow) and self._database is not None:
            row = self._from_database(self._database, row)
            why = "the database does not have it either"
        if isinstance(row, PartialRow):
            raise rule.renderer.left_out(row, why)
        return row

    def waits(self, partial: PartialRow) -> bool:
        """Whether another lane is about to deliver what the row held under its old key."""
        change = partial.key_change
        # guard: left-out-moves
        return change is not None and self._moves.stage(*change) in (
            MoveStage.ANNOUNCED,
            MoveStage.DISPATCHED,
        )

    def hand_over(
        self, move: Move, before: Row | PartialRow | None, entities: Sequence[Entity] | None
    ) -> None:
        """Deliver what a row held before its key changed.

        Args:
            move: The change of the key.
            before: The row under its old key as it waits in the lane.
            entities: The same as the store has it.
        """
        delete = move.delete
        stored = donor_of_entities(entities) if entities else None
        try:
            held = held_in_lane(move, before, stored, self._rules[delete.position.topic].renderer)
        except RecordError:
            held = None  # that version could not be stored either
        self._moves.deliver(delete.row_key, delete.version, held)

    def fail(self, error: BaseException) -> None:
        """Let no other lane wait for one that has ended."""
        self._moves.fail(error)

    def _take_from_old_key(self, partial: PartialRow) -> Donor | None:
        """What the row held before its key changed, followed back over earlier changes of its key."""
        # No recursion: a row may change its key more often than Python may recurse.
        chain: list[PartialRow] = []
        held: Held = partial
        while isinstance(held, PartialRow):
            chain.append(held)
            if held.key_change is None:
                return None
            held = self._moves.take(*held.key_change)
        donor = donor_of_row(held) if isinstance(held, Row) else held
        for each in reversed(chain[1:]):
            if donor is None:
                return None
            renderer = self._rules[each.position.topic].renderer
            row = renderer.complete(each, donor.texts, donor.columns)
            donor = donor_of_row(row) if isinstance(row, Row) else None
        return donor

    def _from_database(self, database: Database, partial: PartialRow) -> Rendered:
        rule = self._rules[partial.position.topic]
        values = self._retry.call(
            lambda: database.select(rule.table, partial.origin, partial.row_key, partial.missing)
        )
        if values is None:
            # The row is gone by now, and its own delete follows.
            return Delete(partial.row_key, partial.version, partial.position, partial.source_ts_ms)
        return rule.renderer.complete_from_values(partial, values)
