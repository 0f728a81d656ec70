"""The newest change of each row in the open window; drops changes that are too old."""

from typing import TypeAlias

from operators.changes.events import (
    ChangeEvent,
    Delete,
    Ignored,
    KafkaPosition,
    Tombstone,
    Truncate,
    Upsert,
)
from operators.changes.row_key import RowKey, key_prefix
from operators.changes.rows import Pending, Row, Winner
from operators.changes.version import (
    NO_POSITION,
    TOOK_OVER,
    Version,
    borrowed,
    has_mark,
    has_position,
    is_emptied,
    is_older,
    make_version,
    marked,
    origin_of,
    other_log,
    place_of,
    place_of_partition,
    same_position,
    same_transaction,
    tail_of,
)
from operators.errors import RecordError
from operators.stages.meeting import (
    Meeting,
    at_position_of,
    is_stale,
    meet,
    mixed_tombstone,
    other_tables_row,
)
from operators.stages.settle import DedupContext, Settler
from operators.state.version_map import VersionMap
from operators.toast.key_changes import Moves

_Known: TypeAlias = tuple[Version, str | None]
"""Version and text hash of a row, as the version map has them."""


class PendingChanges:
    """The changes of one shard that wait for their window to close.

    Attributes:
        rows: The newest change of each row. The `Settler` has the changes that it superseded.
        truncates: The last TRUNCATE of each physical table, by its name in the contract and its origin.
    """

    def __init__(
        self, shared: DedupContext, versions: VersionMap, settler: Settler, moves: Moves
    ) -> None:
        self.rows: dict[RowKey, Pending] = {}
        self.truncates: dict[tuple[str, str], Truncate] = {}
        self._shared = shared
        self._versions = versions
        self._settler = settler
        self._moves = moves

    def take(self, event: ChangeEvent) -> str | None:
        """Make a change the newest of its row, unless it is too old.

        Returns:
            Why the change was dropped ("stale", "other-table", "other-row" or the reason of an
            `Ignored`); "superseded" if it replaced another one; else None.

        Raises:
            RecordError: The key is another table's.
            FatalError: The database's log has gone back, or is another one.
        """
        match event:
            case Upsert() | Delete():
                return self._enter(event)
            case Tombstone():
                delete = self._delete_of(event)
                return None if delete is None else self._enter(delete)
            case Truncate():
                self._truncate(event)
                return None
            case Ignored():
                if event.deletes is not None and event.position is not None:
                    # guard: other-table-tombstone
                    self._versions.deleted(event.deletes, _place(event.position))
                return event.reason

    def restore(self, winner: Winner) -> None:
        """Take in a change from a checkpoint, which has the changes of a row in order."""
        before = self.rows.get(winner.row_key)
        if before is not None:
            self._settler.supersede(before)
        self.rows[winner.row_key] = winner
        if isinstance(winner, Delete) and winner.moved:
            self._moves.announce(winner.row_key, winner.version)

    def _enter(self, event: Upsert | Delete) -> str | None:
        key = event.row_key
        pending = self.rows.get(key)
        known = None if pending is not None else self._versions.get(key)
        newest = pending.version if pending is not None else None if known is None else known[0]
        compared, takes_over = True, False
        if newest is not None and newest[-16:] != event.version[-16:]:
            meeting = self._meet(event, newest, pending, known)
            if meeting is Meeting.IGNORED:
                self._has_deleted(event)
                if pending is not None and other_log(newest, event.version):
                    # What the store may hold of the other part is given up.
                    given_up = marked(pending.version, TOOK_OVER)  # guard: shards-give-up
                    self.rows[key] = pending._replace(version=given_up)
                return "other-table"
            if meeting is Meeting.TAKES_OVER:
                event = event._replace(version=marked(event.version, TOOK_OVER))
            compared = meeting is Meeting.COMPARED
            takes_over = compared and other_log(newest, event.version)
        if not compared:
            pass
        elif event.unpositioned:
            placed = self._placed(event, pending, newest)
            if placed is None:
                self._has_deleted(event)
                return "stale"
            event = placed
        elif self._is_stale(event, pending, known):
            self._has_deleted(event)
            return "stale"
        if isinstance(event, Delete):
            if event.before is not None:
                if self._is_of_another_row(event, pending, known):
                    self._has_deleted(event)
                    return "other-row"
                event = event._replace(before=None)
            if event.moved:
                self._moves.announce(key, event.version)
            if not event.of_tombstone:
                self._has_deleted(event)
        else:
            # The next tombstone from here belongs to this change, not to an older delete.
            self._versions.written(key, place_of(event.version))
            if event.old_key is not None and self._is_again(event):
                event = event._replace(old_key=None)
        # The store may hold what another server's part had before it deleted the row in this window.
        # guard: shards-take-over
        if takes_over or (pending is not None and has_mark(pending.version, TOOK_OVER)):
            event = event._replace(version=marked(event.version, TOOK_OVER))
        self.rows[key] = event  # guard: newest-of-window
        if pending is None:
            return None
        self._settler.supersede(pending)
        return "superseded"

    def _has_deleted(self, event: Upsert | Delete) -> None:
        if isinstance(event, Delete):
            # guard: stale-tombstone
            self._versions.deleted(event.row_key, _place(event.position))

    def _meet(
        self, event: Upsert | Delete, newest: Version, pending: Pending | None, known: _Known | None
    ) -> Meeting:
        """What the change is to the row that is known; see `operators.stages.meeting`."""
        if pending is not None:
            alive = not isinstance(pending, Delete)
        else:
            alive = known is not None and known[1] is not None
        table = self._shared.rules[event.position.topic].table
        meeting = meet(
            event.version,
            newest,
            table,
            self._shared.places,
            self._versions,
            deletes=isinstance(event, Delete),
            alive=alive,
        )
        if meeting is Meeting.REFUSED:
            raise other_tables_row(table)
        return meeting

    def _is_stale(
        self, event: Upsert | Delete, pending: Pending | None, known: _Known | None
    ) -> bool:
        """Whether a change with a position is older than what is known of its row.

        Raises:
            FatalError: It shows that the database's log has gone back.
        """
        if self._versions.is_emptied(event.row_key, event.version):
            return True
        # A pending delete without a position (a lone tombstone) says nothing about positions.
        if pending is not None and has_position(pending.version):
            fence = pending.version
        else:
            known = known or self._versions.get(event.row_key)
            if known is None:
                return False
            fence = known[0]
        stale = self._shared.stale
        if is_older(event.version, fence):  # guard: version-compare
            table = self._shared.rules[event.position.topic].table
            if not is_stale(event, fence, table, self._versions):
                return False
            stale.stale(table, event.row_key, event.version, fence)
            return True
        if stale.rows:
            stale.fresh(self._shared.rules[event.position.topic].table)
        return False

    def _is_of_another_row(
        self, delete: Delete, pending: Pending | None, known: _Known | None
    ) -> bool:
        """Whether a delete is about the row that had its key before the one that is known.

        With a deferrable constraint, rows may swap their keys in one transaction. Then the key's new
        row is created before the old one gives it away. The old row's columns tell the two apart.
        """
        before = delete.before
        assert before is not None
        newest = pending.version if pending is not None else None if known is None else known[0]
        if newest is None or not same_transaction(newest, delete.version):
            return False
        rule = self._shared.rules[delete.position.topic]
        if isinstance(pending, Upsert):
            after, _ = pending.parsed()
            kept = rule.table.unavailable_value
            return any(
                after[name] != before[name] and kept not in (after[name], before[name])
                for name in after.keys() & before.keys()
            )
        if pending is not None:
            text_hash = pending.text_hash if isinstance(pending, Row) else None
        else:
            text_hash = known[1] if known is not None else None
        if not text_hash:
            return False
        read = Upsert(delete.row_key, delete.version, delete.position, 0, "r", before, source={})
        try:
            row = rule.renderer.render(read)
        except RecordError:
            return False
        return not isinstance(row, Row) or row.text_hash != text_hash

    def _placed(
        self, event: Upsert | Delete, pending: Pending | None, newest: Version | None
    ) -> Upsert | Delete | None:
        """Give a change without a position that of the newest known change of its row.

        Returns:
            The change, unaltered if nothing is known of the row; None if it is stale.
        """
        if isinstance(event, Delete):
            # Key changes are told apart by their source position, which this delete lacks.
            event = event._replace(moved=False)
        if newest is None:
            return event
        if not self._shared.places.came_later(*event.position, newest):
            return None
        unpositioned = not has_position(newest) and (
            pending.unpositioned
            if pending is not None
            else self._versions.must_look_up(event.row_key)
        )
        # guard: unpositioned-place
        return event._replace(version=at_position_of(newest, event), unpositioned=unpositioned)

    def newest(self, key: RowKey) -> Version | None:
        """The version below which a change of the row is stale; None if nothing is known."""
        pending = self.rows.get(key)
        return pending.version if pending is not None else self._versions.newest(key)

    def _is_again(self, event: Upsert) -> bool:
        """Whether a key change is a repeat: the row that it made is pending or written already."""
        pending = self.rows.get(event.row_key)
        if pending is not None:
            return not isinstance(pending, Delete) and same_position(pending.version, event.version)
        known = self._versions.get(event.row_key)
        return known is not None and known[1] is not None and same_position(known[0], event.version)

    def _truncate(self, truncate: Truncate) -> None:
        """Drop all changes of the emptied table that are older than the TRUNCATE."""
        prefix = key_prefix(truncate.table)
        name = truncate.table, origin_of(truncate.version)
        before = self.truncates.get(name)
        if before is None or is_older(before.version, truncate.version):
            self.truncates[name] = truncate
        self._versions.truncate(prefix, truncate.version)
        for key in [k for k in self.rows if k.startswith(prefix)]:
            self._settler.truncate(key, truncate, self.rows[key])
            if is_emptied(self.rows[key].version, truncate.version):  # guard: truncate-pending
                del self.rows[key]

    def _delete_of(self, tombstone: Tombstone) -> Delete | None:
        """The delete that a tombstone stands for; None if its `d` event has been seen.

        Debezium sends a `d` event and then the tombstone. Log compaction can remove the `d` event, and
        some transforms do. A lone tombstone has no version: it deletes every version before it.

        Raises:
            RecordError: It may be another table's.
        """
        key, position, _ = tombstone
        place = _place(position)
        if self._versions.ends_delete(key, place):
            return None
        pending, known = self.rows.get(key), self._versions.get(key)
        if pending is not None:
            if isinstance(pending, Delete):
                return None
            newest, unpositioned = pending.version, pending.unpositioned
        elif known is not None:
            newest, unpositioned = known[0], False
            if known[1] is None:
                return None
        else:
            newest, unpositioned = (
                make_version(0, NO_POSITION, position.offset, tail_of(place)),
                True,
            )
        if tombstone.mixed:  # guard: mixed-tombstone
            raise mixed_tombstone(self._shared.rules[position.topic].table)
        if pending is None and known is None:
            return Delete(key, newest, position, 0, unpositioned, of_tombstone=True)
        if not self._shared.places.came_later(*position, newest):
            return None
        # guard: tombstone-position
        version = borrowed(newest, position.offset, place)
        return Delete(key, version, position, 0, unpositioned, of_tombstone=True)


def _place(position: KafkaPosition) -> str:
    return place_of_partition(position.topic, position.partition)
