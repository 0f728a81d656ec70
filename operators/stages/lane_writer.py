"""Writes a lane's windows to the store: one write for each row, dead letters for refused rows."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from operators.changes.events import DeadLetter
from operators.changes.row_key import key_prefix
from operators.changes.rows import PartialRow, Row, Winner
from operators.changes.shards import NUMBER_OF_SHARD, shard_of
from operators.errors import RecordError
from operators.model.protocol import Piece
from operators.model.text_vectors import Texts
from operators.rendering.renderer import Rules
from operators.stages.lane_batch import LaneBatch
from operators.stages.unchanged_text import PieceFinder, pieces_of_stored, pieces_of_version
from operators.stages.window import Window
from operators.state.version_map import VersionMap
from operators.store.protocol import Entity, entity_id
from operators.store.row_requests import Entities, Requests
from operators.telemetry import Telemetry
from operators.toast.completer import Completer
from operators.toast.donor import donor_of_row
from operators.toast.resolver import fill


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one call of `Writer.write` did; the store has acknowledged all of it."""

    rows: int
    deletes: int
    dead_letters: int
    later: tuple[Window, ...] = ()
    """Rows that wait for a value from another lane; the lane writes them before its next windows."""


class DeadLetterSink(Protocol):
    """The store of dead letters."""

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Return once all letters are stored.

        Raises:
            RetriableError: They could not be stored now.
        """
        ...


class Writer:
    """Applies windows to the store.

    Threads: all lanes share it, and it keeps no state between calls. Two calls at a time must not have
    rows in common.

    Args:
        rules: By topic.
        requests: Requests to the store.
        completer: Completes partial rows.
        texts: Embeds rows that have no vector yet.
        model: Identity of the embedding model.
        dead_letters: Stores refused rows.
        telemetry: Counts the written rows and measures their freshness.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        rules: Mapping[str, Rules],
        requests: Requests,
        completer: Completer,
        texts: Texts,
        model: str,
        dead_letters: DeadLetterSink,
        telemetry: Telemetry,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules
        self._requests = requests
        self._completer = completer
        self._pieces = PieceFinder(texts, telemetry)
        self._model = model
        self._dead_letters = dead_letters
        self._telemetry = telemetry
        self._now = now
        # A collection may hold rows of many chunks if one of its tables cuts texts.
        self._cut = {rule.table.collection for rule in rules.values() if rule.table.chunks}

    def write(self, windows: Sequence[Window]) -> Receipt:
        """Write windows, in order; a later operation on a row replaces an earlier one.

        Raises:
            FatalError: The store is gone or refuses everything; or the model failed.
        """
        try:
            for window in windows:
                window.check_embedded()  # guard: model-failure-told
            return self._write(windows)
        except BaseException as error:
            self._completer.fail(error)
            raise

    def _write(self, windows: Sequence[Window]) -> Receipt:
        batches: defaultdict[str, LaneBatch] = defaultdict(LaneBatch)
        dead: list[DeadLetter] = []
        for window in windows:
            dead += window.dead
            self._merge(batches, window, dead)
        requests = self._requests.within([w.context for w in windows if w.context is not None])
        rows = deletes = 0
        later: list[Window] = []
        for collection, batch in batches.items():
            for (table, version), shards in batch.emptied.items():
                requests.delete_older(collection, table, version, shards)
            self._hand_over(requests, collection, batch)
            self._complete(requests, collection, batch, dead, later)
            requests.delete_rows(collection, list(batch.deletes), chunked=collection in self._cut)
            self._upsert(requests, collection, batch, dead)
            deletes += len(batch.deletes)
            rows += len(batch.rows)
        if dead:
            # guard: dead-letter-stored-first
            requests.retry.call(lambda: self._dead_letters.send(dead))
            for stage, count in Counter(letter.stage for letter in dead).items():
                self._telemetry.dead_letters.add(count, {"rowvec.stage": stage})
        self._account(batches)
        return Receipt(rows, deletes, len(dead), tuple(later))

    def _merge(
        self, batches: Mapping[str, LaneBatch], window: Window, dead: list[DeadLetter]
    ) -> None:
        for truncate in window.truncates:
            batch = batches[self._collection(truncate.position.topic)]
            shards = batch.emptied.setdefault((truncate.table, truncate.version), set())
            shards.add(NUMBER_OF_SHARD[window.shard])
            # guard: truncate-in-lane
            batch.forget(key_prefix(truncate.table), truncate.version, window.shard)
        for move in window.moves:
            batch = batches[self._collection(move.delete.position.topic)]
            batch.moves.append((move, batch.rows.get(move.delete.row_key)))
        for key, row in window.rows.items():
            batch = batches[self._collection(row.position.topic)]
            batch.versions[key] = window.versions
            for older in window.fallbacks.get(key, ()):
                self._put(batch, older, None, dead)
            self._put(batch, row, window.vectors.get(key), dead)
        for delete in window.deletes.values():
            batch = batches[self._collection(delete.position.topic)]
            batch.put(delete, None)

    def _put(
        self,
        batch: LaneBatch,
        winner: Winner,
        pieces: tuple[Piece, ...] | None,
        dead: list[DeadLetter],
    ) -> None:
        """Replace the earlier operation on a row, and take missing columns from it."""
        before = batch.rows.get(winner.row_key)
        if before is not None and isinstance(winner, PartialRow):
            partial = winner
            renderer = self._rules[partial.position.topic].renderer
            try:
                winner = fill(partial, donor_of_row(before), renderer)
            except RecordError as error:
                self._refuse(batch, partial, error, dead)
                return
        if pieces is None:
            pieces = pieces_of_version(winner, before, batch.pieces.get(winner.row_key))
        batch.put(winner, pieces)

    def _collection(self, topic: str) -> str:
        return self._rules[topic].table.collection

    def _hand_over(self, requests: Requests, collection: str, batch: LaneBatch) -> None:
        """Read the rows whose key changed before this batch overwrites or deletes them."""
        if batch.moves:
            keys = [move.delete.row_key for move, _ in batch.moves]
            stored = requests.rows(collection, list(dict.fromkeys(keys)))
            for move, before in batch.moves:
                self._completer.hand_over(move, before, stored.get(move.delete.row_key))

    def _complete(
        self,
        requests: Requests,
        collection: str,
        batch: LaneBatch,
        dead: list[DeadLetter],
        later: list[Window],
    ) -> None:
        """Give partial rows the columns that Debezium left out; replace the others by fallbacks.

        This lane has finished every earlier write of these rows, so what the store holds is current.
        """
        while partial := {k: row for k, row in batch.rows.items() if isinstance(row, PartialRow)}:
            waiting = {key for key, row in partial.items() if self._completer.waits(row)}
            wanted = [key for key in partial if key not in waiting or key in batch.fallbacks]
            stored = requests.rows(collection, wanted)
            for key, row in partial.items():
                entities = stored.get(key)
                version = entities[0].version if entities else None
                if key in waiting:
                    # At the front, because a fallback of it is older and may have to wait as well.
                    # guard: fallback-waits-in-order
                    later.insert(0, _window_of(row, batch.versions[key]))
                    batch.fall_back(key, version)
                    continue
                try:
                    whole = self._completer.complete(row, entities)
                except RecordError as error:
                    self._refuse(batch, row, error, dead)
                    batch.fall_back(key, version)
                    continue
                batch.put(whole, pieces_of_stored(whole, entities))

    def _refuse(
        self, batch: LaneBatch, row: Row | PartialRow, error: RecordError, dead: list[DeadLetter]
    ) -> None:
        versions = batch.versions[row.row_key]
        versions.refusals.add(row.row_key, row.version)  # guard: taint-store
        dead.append(_dead_letter(row, error))

    def _upsert(
        self, requests: Requests, collection: str, batch: LaneBatch, dead: list[DeadLetter]
    ) -> None:
        """Write the rows of a batch; those that the store refuses become dead letters."""
        cut = collection in self._cut
        wanting = [
            row
            for key, row in batch.rows.items()
            if isinstance(row, Row) and key not in batch.pieces
        ]
        batch.pieces.update(self._pieces.find(requests, collection, wanting, cut=cut))
        rows = [
            self._entities(row, batch.pieces[key])
            for key, row in batch.rows.items()
            if isinstance(row, Row)
        ]
        for entities, error in requests.upsert(collection, rows, chunked=cut):
            self._refuse(batch, batch.rows.pop(entities[0].row_key), error, dead)

    def _entities(self, row: Row, pieces: tuple[Piece, ...]) -> Entities:
        model, count = self._model, len(pieces)
        return tuple(
            [
                Entity(
                    entity_id(row.row_key, chunk),
                    vector,
                    text,
                    row.text_hash,
                    row.columns,
                    row.table,
                    row.row_key,
                    row.version,
                    row.op,
                    row.source_ts_ms,
                    row.position,
                    model,
                    chunk,
                    count,
                    start,
                    row.spans,
                )
                for chunk, (start, text, vector) in enumerate(pieces)
            ]
        )

    def _account(self, batches: Mapping[str, LaneBatch]) -> None:
        now = self._now()
        for collection, batch in batches.items():
            written = Counter(row.op for row in batch.rows.values())
            written["d"] += len(batch.deletes)
            # A TRUNCATE reaches all shards; count it once, with shard 0.
            written["t"] += sum(0 in shards for shards in batch.emptied.values())
            # Once for each commit time, not for each row: the rows of a large transaction become
            # visible together, and each recording costs time.
            commits = {
                each.source_ts_ms for each in (*batch.rows.values(), *batch.deletes.values())
            }
            for commit in commits - {0}:
                self._telemetry.freshness.record(max(0.0, now - commit / 1000))
            for operation, count in (+written).items():
                self._telemetry.rows_written.add(
                    count, {"db.collection.name": collection, "rowvec.op": operation}
                )


def _window_of(row: PartialRow, versions: VersionMap) -> Window:
    """A window for one row that has to be written later than the window it came in."""
    shard = shard_of(row.row_key)
    return Window({row.row_key: row}, {}, [], set(), versions, (), shard=shard)


def _dead_letter(row: Row | PartialRow, error: RecordError) -> DeadLetter:
    return DeadLetter(
        row.position, "upsert", error.subject, error.cause, error.hint, row_key=row.row_key
    )
