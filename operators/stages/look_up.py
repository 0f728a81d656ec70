"""Compares winners with the store: one look-up per collection for all windows that closed."""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import TypeAlias

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream

from operators.changes.events import DeadLetter, Delete
from operators.changes.row_key import RowKey
from operators.changes.rows import Follows, PartialRow, Row, Winner
from operators.changes.version import TOOK_OVER, Version, has_mark, is_older, with_place
from operators.contract.table import TableSection
from operators.errors import RecordError
from operators.retry import RetryPolicy
from operators.stages.meeting import (
    Meeting,
    Places,
    at_position_of,
    is_stale,
    meet,
    other_tables_row,
)
from operators.stages.unchanged_text import expect_stored
from operators.stages.window import Window
from operators.store.protocol import Stored, VectorStore, entity_id
from operators.telemetry import Telemetry, context_of

KeyedWindows: TypeAlias = list[tuple[str, Window]]

_Place: TypeAlias = tuple[Window, RowKey]


class LookUp:
    """Drops winners that are older than the stored row, and marks rows whose text is stored already.

    It looks up only the rows whose newest version the shard's version map may not know. Earlier writes
    of such a row may still be in flight; that is harmless, because they are older than the winner.
    """

    def __init__(
        self,
        tables: Mapping[str, TableSection],
        store: VectorStore,
        retry: RetryPolicy,
        telemetry: Telemetry,
        places: Places,
    ) -> None:
        self._tables = tables
        self._collections = {topic: table.collection for topic, table in tables.items()}
        self._places = places
        self._store = store
        self._retry = retry
        self._telemetry = telemetry

    def __call__(self, items: KeyedWindows) -> KeyedWindows:
        """Look up all windows of one activation; each keeps its key."""
        if not items:
            return items
        windows = [window for _, window in items]
        links = (context for window in windows for context in window.contexts)
        with self._telemetry.span("resolve", links=links) as span:
            unknown = self._unknown(windows)
            for collection, owners in unknown.items():
                ids = list(owners)
                stored = self._retry.call(partial(self._store.stored, collection, ids))
                for id_, places in owners.items():
                    for window, key in places:
                        self._settle(window, key, stored.get(id_))
            rows = sum(len(window.rows) + len(window.deletes) for window in windows)
            span.set_attribute("rowvec.window.rows", rows)
            span.set_attribute("rowvec.lookups", sum(map(len, unknown.values())))
            context = context_of(span)
        self._telemetry.window_rows.record(rows)
        for shard, window in items:
            window.shard = shard
            window.context = context
        return items

    def _unknown(self, windows: list[Window]) -> dict[str, dict[str, list[_Place]]]:
        """Rows to look up: collection → entity id → their windows and keys, in order."""
        unknown: defaultdict[str, dict[str, list[_Place]]] = defaultdict(dict)
        for window in windows:
            winners: list[Winner] = [*window.rows.values(), *window.deletes.values()]
            for winner in winners:
                if winner.row_key in window.unverified:
                    collection = self._collections[winner.position.topic]
                    places = unknown[collection].setdefault(entity_id(winner.row_key), [])
                    places.append((window, winner.row_key))
        return unknown

    def _settle(self, window: Window, key: RowKey, stored: Stored | None) -> None:
        if stored is None:
            window.versions.learn(key, None)
            return
        # A release before this one stored no place in its versions.
        held = with_place(stored.version, stored.place)
        row = window.rows.get(key)
        winner = window.deletes[key] if row is None else row
        meeting = self._meet(window, winner, held)
        if meeting is Meeting.REFUSED:
            self._refuse(window, winner, stored)
            return
        if meeting is Meeting.IGNORED:
            self._take_out(window, key)
            window.versions.correct(key, (stored.version, stored.text_hash))
            self._telemetry.rows_dropped.add(1, {"reason": "other-table"})
            return
        if row is None:
            self._settle_delete(window, window.deletes[key], stored, held, meeting)
            return
        if meeting is Meeting.COMPARED:
            if row.unpositioned:
                # Without a source position, the offset decides whether it came later.
                placed = self._placed(window, row, held)
                if placed is None:
                    self._drop(window, key, stored)
                    return
                row = placed
            if self._is_stale(window, row, stored):  # guard: store-compare
                self._drop(window, key, stored)
                return
            if key in window.fallbacks:
                window.fallbacks[key] = self._not_overtaken(window.fallbacks[key], held)
        window.versions.learn(key, None)
        expect_stored(window, row, stored.text_hash)
        if isinstance(row, PartialRow) and row.follows is Follows.UNKNOWN:
            window.rows[key] = row._replace(follows=stored.version)

    def _meet(self, window: Window, winner: Winner, held: Version) -> Meeting:
        """What a winner is to the stored row; see `operators.stages.meeting`."""
        table = self._tables[winner.position.topic]
        if has_mark(winner.version, TOOK_OVER):
            # The delete of the stored row came before it in its window.
            return Meeting.COMPARED if table.source_tables else Meeting.TAKES_OVER
        return meet(
            winner.version,
            held,
            table,
            self._places,
            window.versions,
            deletes=isinstance(winner, Delete),
            alive=True,
        )

    def _is_stale(self, window: Window, winner: Winner, stored: Stored) -> bool:
        table = self._tables[winner.position.topic]
        return is_older(winner.version, stored.version) and is_stale(
            winner, stored.version, table, window.versions
        )

    def _settle_delete(
        self, window: Window, delete: Delete, stored: Stored, held: Version, meeting: Meeting
    ) -> None:
        key = delete.row_key
        if meeting is Meeting.COMPARED and delete.unpositioned:
            # Without a source position, the offset decides whether the tombstone came later.
            if not self._places.came_later(
                *delete.position, held
            ):  # guard: store-compare-tombstone
                self._drop(window, key, stored)
            else:
                window.versions.learn(key, (at_position_of(held, delete), None))
        # guard: store-compare-delete
        elif meeting is Meeting.COMPARED and self._is_stale(window, delete, stored):
            self._drop(window, key, stored)
        else:
            window.versions.learn(key, None)

    def _placed(
        self, window: Window, row: Row | PartialRow, held: Version
    ) -> Row | PartialRow | None:
        """The row, at the stored row's source position; None if it came before that."""
        if not self._places.came_later(*row.position, held):
            return None
        row = row._replace(version=at_position_of(held, row), unpositioned=False)
        window.rows[row.row_key] = row
        window.versions.learn(row.row_key, (row.version, _digest(row)))
        return row

    def _drop(self, window: Window, key: RowKey, stored: Stored) -> None:
        self._take_out(window, key)
        # guard: store-remembered
        window.versions.learn(key, (Version(stored.version), stored.text_hash))
        self._telemetry.rows_dropped.add(1, {"reason": "overtaken"})

    def _refuse(self, window: Window, winner: Winner, stored: Stored) -> None:
        """Make a dead letter of a row whose key is another table's."""
        error: RecordError = other_tables_row(self._tables[winner.position.topic])
        key = winner.row_key
        self._take_out(window, key)
        # guard: other-table-refused-stored
        window.versions.correct(key, (Version(stored.version), stored.text_hash))
        window.dead.append(
            DeadLetter(
                winner.position, "resolve", error.subject, error.cause, error.hint, row_key=key
            )
        )

    def _take_out(self, window: Window, key: RowKey) -> None:
        window.rows.pop(key, None)
        window.deletes.pop(key, None)
        window.fallbacks.pop(key, None)
        window.unchanged.discard(key)

    def _not_overtaken(self, fallbacks: list[Winner], stored: Version) -> list[Winner]:
        """Drop unpositioned fallbacks older than the stored row; place the newer ones at its position.

        Fallbacks that have a source position stay: the lane compares their versions itself.
        """
        kept: list[Winner] = []
        for each in fallbacks:
            if each.unpositioned:
                # guard: fallback-unpositioned-ahead
                if not self._places.came_later(*each.position, stored):
                    continue
                each = each._replace(version=at_position_of(stored, each), unpositioned=False)
            kept.append(each)
        return kept


def _digest(row: Row | PartialRow) -> str:
    return row.text_hash if isinstance(row, Row) else ""


@operator
def look_up(step_id: str, up: KeyedStream[Window], logic: LookUp) -> KeyedStream[Window]:
    """Windows by shard, without the winners that are older than the stored row."""
    return op.flat_map_batch("batch", up, logic)
