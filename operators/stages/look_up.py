"""Compares winners with the store: one look-up per collection for all windows that closed."""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import TypeAlias

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream

from operators.changes.row_key import RowKey
from operators.changes.rows import Follows, PartialRow, Row, Winner
from operators.changes.version import Version, at_offset, offset_of
from operators.contract.table import TableSection
from operators.retry import RetryPolicy
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
    ) -> None:
        self._collections = {topic: table.collection for topic, table in tables.items()}
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
        row = window.rows.get(key)
        if row is not None:
            if row.unpositioned:
                # Without a source position, the offset decides whether it came later.
                row = self._placed(window, row, stored)
            if row.version < stored.version:  # guard: store-compare
                del window.rows[key]
                window.fallbacks.pop(key, None)
                self._drop(window, key, stored)
                return
            if key in window.fallbacks:
                window.fallbacks[key] = _not_overtaken(window.fallbacks[key], stored.version)
            window.versions.learn(key, None)
            expect_stored(window, row, stored.text_hash)
            if isinstance(row, PartialRow) and row.follows is Follows.UNKNOWN:
                window.rows[key] = row._replace(follows=stored.version)
            return
        delete = window.deletes[key]
        if delete.unpositioned:
            # Without a source position, the offset decides whether the tombstone came later.
            offset = delete.position.offset
            if offset_of(stored.version) > offset:  # guard: store-compare-tombstone
                del window.deletes[key]
                self._drop(window, key, stored)
            else:
                window.versions.learn(key, (at_offset(stored.version, offset), None))
        elif stored.version > delete.version:  # guard: store-compare-delete
            del window.deletes[key]
            self._drop(window, key, stored)
        else:
            window.versions.learn(key, None)

    def _placed(self, window: Window, row: Row | PartialRow, stored: Stored) -> Row | PartialRow:
        """The row, at the stored row's source position if it came later."""
        offset = row.position.offset
        if offset_of(stored.version) > offset:
            return row
        row = row._replace(version=at_offset(stored.version, offset), unpositioned=False)
        window.rows[row.row_key] = row
        digest = row.text_hash if isinstance(row, Row) else ""
        window.versions.learn(row.row_key, (row.version, digest))
        return row

    def _drop(self, window: Window, key: RowKey, stored: Stored) -> None:
        # guard: store-remembered
        window.versions.learn(key, (Version(stored.version), stored.text_hash))
        self._telemetry.rows_dropped.add(1, {"reason": "overtaken"})


def _not_overtaken(fallbacks: list[Winner], stored: Version) -> list[Winner]:
    """Drop unpositioned fallbacks older than the stored row; place the newer ones at its position.

    Fallbacks that have a source position stay: the lane compares their versions itself.
    """
    kept: list[Winner] = []
    for each in fallbacks:
        if each.unpositioned:
            offset = each.position.offset
            if offset_of(stored) > offset:  # guard: fallback-unpositioned-ahead
                continue
            each = each._replace(version=at_offset(stored, offset), unpositioned=False)
        kept.append(each)
    return kept


@operator
def look_up(step_id: str, up: KeyedStream[Window], logic: LookUp) -> KeyedStream[Window]:
    """Windows by shard, without the winners that are older than the stored row."""
    return op.flat_map_batch("batch", up, logic)
