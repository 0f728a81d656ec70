"""Settling: renders and completes the pending changes of a window, or makes dead letters of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from operators.changes.events import DeadLetter, Delete, KafkaPosition, Truncate, Upsert
from operators.changes.row_key import RowKey
from operators.changes.rows import Move, PartialRow, Pending
from operators.changes.version import is_emptied, same_position
from operators.errors import RecordError
from operators.rendering.renderer import Rendered, Rules
from operators.stages.meeting import Places, StaleWatch
from operators.stages.window_clock import WindowClock
from operators.state.version_map import VersionMap
from operators.telemetry import Telemetry
from operators.toast.key_changes import Moves
from operators.toast.resolver import held_in_window, settle

MAX_DEAD_LETTER_BYTES = 256 * 1024
"""A larger key or value is left out of its dead letter; the topic has it at the letter's position."""


@dataclass(frozen=True)
class DedupContext:
    """What all shards of a process share.

    Attributes:
        rules: By topic.
        whole: Whether the collections were empty when the process started.
        partitions: All (topic, partition) pairs that the flow reads, in every process.
        moves: See `Moves`.
        distrust: Whether the recovery state may be an old copy; then every row is looked up.
        read_to_end: Whether the flow ends because every partition was read to its end, so that nothing
            that a row waits for will come.
    """

    rules: Mapping[str, Rules]
    clock: WindowClock
    telemetry: Telemetry
    horizon_s: float
    whole: bool
    partitions: frozenset[tuple[str, int]] = frozenset()
    moves: Moves = field(default_factory=Moves)
    distrust: bool = False
    stale: StaleWatch = field(default_factory=StaleWatch)
    read_to_end: Callable[[], bool] = lambda: False

    @cached_property
    def places(self) -> Places:
        """The partitions that the flow reads."""
        return Places(self.partitions, self.telemetry)


class Settler:
    """Settles the pending changes of one shard, by the rules of `operators.toast.resolver`.

    Attributes:
        superseded: The older changes of each pending row that may still be needed, oldest first. After
            `settle` they are the row's fallbacks; newer changes are appended.
        moves: Key changes of this window whose old row the lane has to read, because the window does
            not have all of its columns.
        dead: Dead letters that wait for the window to close.
    """

    def __init__(self, shared: DedupContext, versions: VersionMap) -> None:
        self._shared = shared
        self._versions = versions
        self.superseded: dict[RowKey, list[Pending]] = {}
        self.moves: dict[RowKey, list[Move]] = {}
        self.dead: list[DeadLetter] = []

    def supersede(self, winner: Pending) -> None:
        """Keep a superseded change: it may give columns to a newer one, or become a fallback."""
        self.superseded.setdefault(winner.row_key, []).append(winner)

    def truncate(self, key: RowKey, truncate: Truncate, winner: Pending) -> None:
        """Drop a row's changes that are older than a TRUNCATE of its table.

        Args:
            key: Key of the row.
            truncate: The TRUNCATE.
            winner: The newest change of the row; the caller drops or keeps it.
        """
        version = truncate.version
        older = self.superseded.pop(key, [])
        for each in (*older, winner, *(move.delete for move in self.moves.get(key, ()))):
            if isinstance(each, Delete) and each.moved and is_emptied(each.version, version):
                self._shared.moves.deliver(key, each.version, None)
        kept = [each for each in older if not is_emptied(each.version, version)]
        if kept and not is_emptied(winner.version, version):
            self.superseded[key] = kept
        if key in self.moves:
            moves = [
                each for each in self.moves[key] if not is_emptied(each.delete.version, version)
            ]
            if moves:
                self.moves[key] = moves
            else:
                del self.moves[key]

    def settle(self, pending: dict[RowKey, Pending]) -> None:
        """Turn pending upserts into rows; those that cannot be rendered become dead letters.

        A bad change leaves its row as the change before it left it, so a superseded change is used in
        its place. The result must not depend on whether the two changes were in one window.
        """
        superseded, self.superseded = self.superseded, {}
        rules = self._shared.rules
        last: Rendered | None
        for key, winner in list(pending.items()):
            earlier = superseded.get(key)
            if earlier is not None:
                last = self._resolve(key, self._pass_on(earlier, winner))
            elif isinstance(winner, Upsert):
                # The usual case, kept fast: a single change only has to be rendered.
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
        """Settle several changes of one row; None if all of them are bad."""
        renderer = self._shared.rules[changes[-1].position.topic].renderer
        last, fallbacks, bad = settle(changes, renderer, self._versions.is_tainted)
        for change, error in bad:
            self._refuse(change, error)
        if fallbacks:
            self.superseded[key] = list(fallbacks)
        return last

    def _refuse(self, change: Upsert | PartialRow, error: RecordError) -> None:
        """Make a dead letter of a change, and note that this version of its row was refused."""
        key = change.row_key
        self._versions.taint(key, change.version)  # guard: taint-render
        raw = change.raw if isinstance(change, Upsert) else None
        self.dead_letter(change.position, "render", error, key, None, raw)

    def _pass_on(self, earlier: list[Pending], winner: Pending) -> list[Pending]:
        """Deliver the old row of each key change in this window, or have the lane read it.

        Returns:
            All changes of the row, oldest first; no delete among them is `moved` any more.
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
                # An earlier copy of this delete has delivered the row. If the new row has taken it
                # already, this None keeps a repeat of the new row from waiting for it.
                self._shared.moves.deliver(delete.row_key, delete.version, None)
        if not moved:
            return changes
        # The old row is delivered, or the lane reads it because of `moves`. If a delete were still
        # `moved`, the lane would read the store, which may hold an older version.
        return [
            each._replace(moved=False) if isinstance(each, Delete) else each for each in changes
        ]

    def _note_held(self, delete: Delete, earlier: list[Pending]) -> None:
        """Deliver the old row of a key change, or note that the lane has to read it."""
        renderer = self._shared.rules[delete.position.topic].renderer
        held = held_in_window(delete, earlier, renderer, self._versions.is_tainted)
        if isinstance(held, Move):
            self.moves.setdefault(delete.row_key, []).append(held)
        else:
            self._shared.moves.deliver(delete.row_key, delete.version, held)

    def _will_deliver(self, delete: Delete, same: list[Pending]) -> bool:
        """Whether an earlier copy of a delete, in this window or in the lane, will deliver the row."""
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
        """Make a dead letter, without a key or value that is too large or may hold masked columns."""
        masked = bool(self._shared.rules[position.topic].table.masks)  # guard: dead-letter-masked
        if masked or (key is not None and len(key) > MAX_DEAD_LETTER_BYTES):
            key = None
        if masked or (value is not None and len(value) > MAX_DEAD_LETTER_BYTES):
            value = None
        self.dead.append(
            DeadLetter(position, stage, error.subject, error.cause, error.hint, key, value, row_key)
        )


def _is_again(delete: Delete, before: Pending) -> bool:
    """Whether a delete is a repeat of the one before it."""
    return isinstance(before, Delete) and same_position(before.version, delete.version)
