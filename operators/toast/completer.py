"""Gives partial rows what Debezium left out, from what is known of the row."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from operators.changes.events import Delete
from operators.changes.row_key import RowKey
from operators.changes.rows import Move, PartialRow, Row, texts_of
from operators.contract.table import TableSection
from operators.errors import RecordError
from operators.rendering.renderer import Rendered, Rules
from operators.retry import RetryPolicy
from operators.store.protocol import Entity
from operators.toast.donor import Donor, donor_of_entities, donor_of_row, follows, stored_donor
from operators.toast.key_changes import Held, Moves, MoveStage


class Database(Protocol):
    """The table itself; `operators.postgres.reselect` has the real one."""

    def select(
        self, table: TableSection, origin: tuple[str, str], row_key: RowKey, columns: Sequence[str]
    ) -> Mapping[str, Any] | None:
        """The columns of a row as they are now; None if the row is not there."""
        ...


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
        # guard: left-out-between
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
                held = None  # guard: left-out-other-row
            donor = held or stored_donor(entities, partial)
            why = "what the row held under its old key is not known"
        else:
            donor = stored_donor(entities, partial)
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
        stage = self._moves.stage(partial.old_key, partial.after or "")
        # guard: left-out-moves
        return stage in (MoveStage.ANNOUNCED, MoveStage.DISPATCHED)

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
        self._moves.deliver(move.delete.row_key, move.delete.version, held)

    def _held(
        self, move: Move, before: Row | PartialRow | None, entities: Sequence[Entity] | None
    ) -> Held:
        held: Rendered | None = before
        if move.held is not None:
            held = move.held if before is None else self.from_row(move.held, before)
        # guard: left-out-refused-between
        elif before is not None and not follows(before, move.after, move.delete.version):
            return None  # what came between was refused
        if isinstance(held, PartialRow) and held.old_key is None:
            donor = stored_donor(entities, held)
            if donor is not None:
                renderer = self._rules[held.position.topic].renderer
                held = renderer.complete(held, donor.texts, donor.columns)
            return held if isinstance(held, Row) else None
        if held is not None:
            return None if isinstance(held, Delete) else held
        donor = donor_of_entities(entities) if entities else None
        return donor if donor and follows(donor, move.after, move.delete.version) else None

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
