"""What the changes of a window leave of each row: rendered, completed, or a dead letter."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from operators.changes.events import DeadLetter, Delete, KafkaPosition, Truncate, Upsert
from operators.changes.row_key import RowKey
from operators.changes.rows import Move, PartialRow, Pending
from operators.changes.version import is_before, same_position
from operators.errors import RecordError
from operators.rendering.renderer import Rendered, Rules
from operators.stages.window_clock import WindowClock
from operators.state.version_map import VersionMap
from operators.telemetry import Telemetry
from operators.toast.key_changes import Moves
from operators.toast.resolver import held_in_window, settle

MAX_DEAD_LETTER_BYTES = 256 * 1024
"""A larger key or value is left out of its dead letter; the position still finds it in the topic."""


@dataclass(frozen=True, slots=True)
class DedupContext:
    """What all shards of a process share.

    Attributes:
        rules: By topic.
        whole: The collections were empty when the process started.
        partitions: All that the sources of the flow read, in every process: (topic, partition).
        moves: See `Moves`.
        distrust: What the recovery state says of rows may be old: look them up.
    """

    rules: Mapping[str, Rules]
    clock: WindowClock
    telemetry: Telemetry
    horizon_s: float
    whole: bool
    partitions: frozenset[tuple[str, int]] = frozenset()
    moves: Moves = field(default_factory=Moves)
    distrust: bool = False


class Settler:
    """Settles the pending changes of one shard, by the rules of `operators.toast.resolver`.

    Attributes:
        superseded: The older changes of each pending row that may still be needed, oldest first. After
            `settle` those are the row's fallbacks; newer changes are added behind them.
        moves: Changes of a key in this window whose row the lane has to read, because the window does
            not say what it held.
        dead: Dead letters that wait for the window to close.
    """

    def __init__(self, shared: DedupContext, versions: VersionMap) -> None:
        self._shared = shared
        self._versions = versions
        self.superseded: dict[RowKey, list[Pending]] = {}
        self.moves: dict[RowKey, list[Move]] = {}
        self.dead: list[DeadLetter] = []

    def supersede(self, winner: Pending) -> None:
        """Keep a change whose row has a newer one: it may give columns, or become a fallback."""
        self.superseded.setdefault(winner.row_key, []).append(winner)

    def truncate(self, key: RowKey, truncate: Truncate, winner: Pending) -> None:
        """Drop a row's changes that are older than a TRUNCATE of its table.

        Args:
            key: Of the row.
            truncate: Of its table.
            winner: The newest change of the row, which the caller drops or keeps.
        """
        version = truncate.version
        older = self.superseded.pop(key, [])
        for each in (*older, winner, *(move.delete for move in self.moves.get(key, ()))):
            if isinstance(each, Delete) and each.moved and is_before(each.version, version):
                self._shared.moves.deliver(key, each.version, None)
        kept = [each for each in older if not is_before(each.version, version)]
        if kept and not is_before(winner.version, version):
            self.superseded[key] = kept
        if key in self.moves:
            moves = [
                each for each in self.moves[key] if not is_before(each.delete.version, version)
            ]
            if moves:
                self.moves[key] = moves
            else:
                del self.moves[key]

    def settle(self, pending: dict[RowKey, Pending]) -> None:
        """Turn pending upserts into rows; those that cannot be rendered become dead letters.

        A bad change leaves its row as it was, and that is what it superseded in this window: whether
        the two met in one window must not decide what is seen.
        """
        superseded, self.superseded = self.superseded, {}
        rules = self._shared.rules
        last: Rendered | None
        for key, winner in list(pending.items()):
            earlier = superseded.get(key)
            if earlier is not None:
                last = self._resolve(key, self._pass_on(earlier, winner))
            elif isinstance(winner, Upsert):
                # Nearly all rows: there is nothing to resolve.
                try:
                    last = rules[winner.position.topic].renderer.render(winner)
                except RecordError as error:  # guard: dead-letter-render
                    self._refuse(winner, error)
                    last = None
            else:
                continue
            if last is None:
                del pending[key]
            else:
                pending[key] = last

    def _resolve(self, key: RowKey, changes: list[Pending]) -> Rendered | None:
        """What several changes leave of their row; None if all are bad."""
        renderer = self._shared.rules[changes[-1].position.topic].renderer
        last, fallbacks, bad = settle(changes, renderer, self._versions.is_tainted)
        for change, error in bad:
            self._refuse(change, error)
        if fallbacks:
            self.superseded[key] = list(fallbacks)
        return last

    def _refuse(self, change: Upsert | PartialRow, error: RecordError) -> None:
        """Make a dead letter of a change, and remember that a version of its row is missing."""
        key = change.row_key
        self._versions.taint(key, change.version)  # guard: taint-render
        raw = change.raw if isinstance(change, Upsert) else None
        self.dead_letter(change.position, "render", error, key, None, raw)

    def _pass_on(self, earlier: list[Pending], winner: Pending) -> list[Pending]:
        """See to what the row held each time that its key changed in this window.

        Returns:
            All changes of the row, oldest first; none of them has to be seen to again.
        """
        changes = [*earlier, winner]
        moved = False
        for index, delete in enumerate(changes):
            if not isinstance(delete, Delete) or not delete.moved:
                continue
            moved = True
            before = changes[:index]
            while before and _is_again(delete, before[-1]):
                before.pop()
            if len(before) == index:
                self._note_held(delete, before)
            elif not self._will_deliver(delete, changes[len(before) : index]):
                # An earlier copy of this delete has delivered it, and it may have been taken.
                self._shared.moves.deliver(delete.row_key, delete.version, None)
        if not moved:
            return changes
        # What the row held is delivered, or the lane reads it by `moves`. A delete that is still
        # `moved` would let the lane read the store, which may hold an older version.
        return [
            each._replace(moved=False) if isinstance(each, Delete) else each for each in changes
        ]

    def _note_held(self, delete: Delete, earlier: list[Pending]) -> None:
        """Deliver what a row held whose key changed, or let the lane find it out."""
        renderer = self._shared.rules[delete.position.topic].renderer
        held = held_in_window(delete, earlier, renderer, self._versions.is_tainted)
        if isinstance(held, Move):
            self.moves.setdefault(delete.row_key, []).append(held)
        else:
            self._shared.moves.deliver(delete.row_key, delete.version, held)

    def _will_deliver(self, delete: Delete, same: list[Pending]) -> bool:
        """Whether an earlier copy of a delete, in this window or in the lane, delivers it yet."""
        asked = (move.delete for move in self.moves.get(delete.row_key, ()))
        return any(isinstance(each, Delete) and each.moved for each in same) or any(
            same_position(each.version, delete.version) for each in asked
        )

    def dead_letter(
        self,
        position: KafkaPosition,
        stage: str,
        error: RecordError,
        row_key: str,
        key: bytes | None,
        value: bytes | None,
    ) -> None:
        """Make a dead letter. What is too large, or may hold what is masked, stays in the topic."""
        masked = bool(self._shared.rules[position.topic].table.masks)  # guard: dead-letter-masked
        if masked or (key is not None and len(key) > MAX_DEAD_LETTER_BYTES):
            key = None
        if masked or (value is not None and len(value) > MAX_DEAD_LETTER_BYTES):
            value = None
        self.dead.append(
            DeadLetter(position, stage, error.subject, error.cause, error.hint, key, value, row_key)
        )


def _is_again(delete: Delete, before: Pending) -> bool:
    """Whether this is a change of the key that is here already."""
    return isinstance(before, Delete) and same_position(before.version, delete.version)
