"""The newest change of each row in the open window; drops changes that are too old."""

from operators.changes.events import ChangeEvent, Delete, Ignored, Tombstone, Truncate, Upsert
from operators.changes.row_key import RowKey, key_prefix
from operators.changes.rows import Pending, Winner
from operators.changes.version import (
    NO_POSITION,
    Version,
    at_offset,
    has_position,
    is_before,
    make_version,
    offset_of,
    same_position,
)
from operators.stages.settle import Settler
from operators.state.version_map import VersionMap
from operators.toast.key_changes import Moves


class PendingChanges:
    """The changes of one shard that wait for their window to close.

    Attributes:
        rows: The newest change of each row. The `Settler` has the changes that it superseded.
        truncates: The last TRUNCATE of each table.
    """

    def __init__(self, versions: VersionMap, settler: Settler, moves: Moves) -> None:
        self.rows: dict[RowKey, Pending] = {}
        self.truncates: dict[str, Truncate] = {}
        self._versions = versions
        self._settler = settler
        self._moves = moves

    def take(self, event: ChangeEvent) -> str | None:
        """Make a change the newest of its row, unless it is too old.

        Returns:
            Why the change was dropped ("stale" or the reason of an `Ignored`); "superseded" if it
            replaced another one; else None.
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
        if event.unpositioned:
            placed = self._placed(event, pending)
            if placed is None:
                return "stale"
            event = placed
        else:
            # A pending delete without a position (a lone tombstone) must not hide the fence that a
            # TRUNCATE has set.
            if pending is not None and has_position(pending.version):
                fence: Version | None = pending.version
            else:
                fence = self._versions.newest(key)
            if fence is not None and event.version < fence:  # guard: version-compare
                if isinstance(event, Delete):
                    self._versions.dropped_delete(key)  # guard: stale-tombstone
                return "stale"
            if isinstance(event, Delete):
                if event.moved:
                    self._moves.announce(key, event.version)
            elif event.old_key is not None and self._is_again(event):
                event = event._replace(old_key=None)
        # The next tombstone belongs to this change, not to a stale delete that was dropped before.
        self._versions.ends_dropped_delete(key)  # guard: stale-tombstone-late
        self.rows[key] = event  # guard: newest-of-window
        if pending is None:
            return None
        self._settler.supersede(pending)
        return "superseded"

    def _placed(self, event: Upsert | Delete, pending: Pending | None) -> Upsert | Delete | None:
        """Give a change without a position that of the newest known change of its row.

        Returns:
            The change, unaltered if nothing is known of the row; None if it is stale.
        """
        key = event.row_key
        if isinstance(event, Delete):
            # Key changes are told apart by their source position, which this delete lacks.
            event = event._replace(moved=False)
        if pending is not None:
            newest = pending.version
        else:
            known = self._versions.get(key)
            if known is None:
                return event
            newest = known[0]
        # Offsets decide which came later: all changes of a row are in one partition.
        if offset_of(newest) > event.position.offset:  # guard: unpositioned-offset
            return None
        unpositioned = not has_position(newest) and (
            pending.unpositioned if pending is not None else self._versions.must_look_up(key)
        )
        # guard: unpositioned-place
        return event._replace(
            version=at_offset(newest, event.position.offset), unpositioned=unpositioned
        )

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
        before = self.truncates.get(truncate.table)
        if before is None or before.version < truncate.version:
            self.truncates[truncate.table] = truncate
        self._versions.truncate(prefix, truncate.version)
        for key in [k for k in self.rows if k.startswith(prefix)]:
            self._settler.truncate(key, truncate, self.rows[key])
            if is_before(self.rows[key].version, truncate.version):  # guard: truncate-pending
                del self.rows[key]

    def _delete_of(self, tombstone: Tombstone) -> Delete | None:
        """The delete that a tombstone stands for; None if its `d` event has been seen.

        Debezium sends a `d` event and then the tombstone. Log compaction can remove the `d` event. A
        lone tombstone has no version: it deletes every version before it in its partition.
        """
        key, position = tombstone.row_key, tombstone.position
        if self._versions.ends_dropped_delete(key):
            return None
        pending = self.rows.get(key)
        if pending is not None:
            if isinstance(pending, Delete):
                return None
            version = at_offset(pending.version, position.offset)
            return Delete(key, version, position, 0, pending.unpositioned)
        known = self._versions.get(key)
        if known is None:
            return Delete(
                key, make_version(0, NO_POSITION, position.offset), position, 0, unpositioned=True
            )
        version, digest = known
        return (  # guard: tombstone-position
            None
            if digest is None
            else Delete(key, at_offset(version, position.offset), position, 0)
        )
