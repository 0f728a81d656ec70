"""What the changes of a window leave of each row: rendered, completed, or a dead letter."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from operators.changes.events import DeadLetter, Delete, KafkaPosition, Truncate, Upsert
from operators.changes.row_key import RowKey
from operators.changes.rows import Move, PartialRow, Row, texts_of
from operators.changes.version import is_before, same_position
from operators.errors import RecordError
from operators.rendering.renderer import Rendered, Rules
from operators.stages.window_clock import WindowClock
from operators.state.dedup_checkpoint import Pending
from operators.state.version_map import VersionMap
from operators.telemetry import Telemetry
from operators.toast.key_changes import Moves

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
    """Settles the pending changes of one shard.

    Attributes:
        below: What pending changes have superseded, oldest first; once they are settled, what is to
            be sent before those that their lane may refuse.
        moves: Rows whose key changed within a window, for the lane to read what they held.
        dead: Dead letters that wait for the window to close.
    """

    def __init__(self, shared: DedupContext, versions: VersionMap) -> None:
        self._shared = shared
        self._versions = versions
        self.below: dict[RowKey, list[Pending]] = {}
        self.moves: dict[RowKey, list[Move]] = {}
        self.dead: list[DeadLetter] = []

    def supersede(self, winner: Pending) -> None:
        """Note what a newer change of the row takes the place of."""
        self.below.setdefault(winner.row_key, []).append(winner)

    def truncate(self, key: RowKey, truncate: Truncate, winner: Pending) -> None:
        """Forget of a row what a TRUNCATE took."""
        version = truncate.version
        below = self.below.pop(key, [])
        for each in (*below, winner, *(move.delete for move in self.moves.get(key, ()))):
            if isinstance(each, Delete) and each.moved and is_before(each.version, version):
                self._shared.moves.deliver(key, each.version, None)
        kept = [each for each in below if not is_before(each.version, version)]
        if kept and not is_before(winner.version, version):
            self.below[key] = kept
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
        below, self.below = self.below, {}
        for key, winner in list(pending.items()):
            earlier = below.get(key, []) if below else []
            if not earlier and not isinstance(winner, Upsert):
                continue
            if earlier:
                winner = self._pass_on(earlier, winner)
            sound = self._newest_valid(winner, earlier)
            if sound is None:
                del pending[key]
                continue
            pending[key] = sound
            if earlier and isinstance(sound, PartialRow):
                # It cannot be completed from these, and may be refused in its lane.
                stand_ins = self._stand_ins(earlier)
                if stand_ins:
                    self.below[key] = stand_ins

    def _stand_ins(self, earlier: list[Pending]) -> list[Pending]:
        """What may be left where a partial row is refused, oldest first.

        Down to a row that is whole, or a delete: those cannot be refused for what they lack.
        """
        found: list[Pending] = []
        while earlier:
            sound = self._newest_valid(earlier.pop(), earlier)
            # One that follows a refused change as well would be refused with the row.
            if sound is not None and not (isinstance(sound, PartialRow) and sound.after == ""):
                found.insert(0, sound)
            if not isinstance(sound, PartialRow):  # guard: below-window
                break
        return found

    def _newest_valid(self, winner: Pending, earlier: list[Pending]) -> Rendered | None:
        """The newest of a row's changes that is not bad; takes what it looks at out of `earlier`."""
        while True:
            rendered = self._rendered(winner) if isinstance(winner, Upsert) else winner
            if isinstance(rendered, PartialRow) and earlier:
                rendered = self._completed(rendered, earlier)
            if rendered is not None or not earlier:  # guard: dead-letter-leaves-row
                return rendered
            winner = earlier.pop()

    def _rendered(self, upsert: Upsert) -> Rendered | None:
        """The row, or None if it is bad, which its dead letter tells."""
        try:
            return self._shared.rules[upsert.position.topic].renderer.render(upsert)
        except RecordError as error:  # guard: dead-letter-render
            self._versions.taint(upsert.row_key, upsert.version)  # guard: taint-render
            self.dead_letter(upsert.position, "render", error, upsert.row_key, None, upsert.raw)
            return None

    def _completed(self, partial: PartialRow, earlier: list[Pending]) -> Rendered | None:
        """The same for a row that lacks what versions may hold that it has superseded."""
        try:
            return self._complete(partial, earlier)
        except RecordError as error:
            self._versions.taint(partial.row_key, partial.version)
            self.dead_letter(partial.position, "render", error, partial.row_key, None, None)
            return None

    def _complete(self, partial: PartialRow, earlier: list[Pending]) -> Rendered:
        """What Debezium left out, from the versions that the row superseded in this window.

        Takes those out of `earlier` that it has used up. Where one of them was refused, or was a
        delete, nothing from before it is the row's: it is left as it is, and as following nothing.

        Raises:
            RecordError: The text is too long to be stored.
        """
        renderer = self._shared.rules[partial.position.topic].renderer
        row: Rendered = partial
        while isinstance(row, PartialRow) and row.old_key is None and row.after != "" and earlier:
            donor = earlier[-1]
            # guard: taint-in-window
            if self._versions.is_tainted(row.row_key, row.version, since=donor.version):
                return row._replace(after="")
            if isinstance(donor, Upsert):
                try:
                    rendered = renderer.render(donor)
                except RecordError:
                    return row._replace(
                        after=""
                    )  # its letter is made when a stand-in is looked for
                if isinstance(rendered, Delete):
                    # It was only kept out: what it left alone, the store still holds.
                    row = renderer.complete_from_event(row, donor)
                    if isinstance(row, PartialRow) and donor.old_key is not None:
                        row = row._replace(old_key=donor.old_key, after=donor.version)
                    earlier.pop()
                    continue
                donor = rendered
            if isinstance(donor, Delete):
                return row._replace(after="")
            texts = donor.texts if isinstance(donor, PartialRow) else texts_of(donor)
            row = renderer.complete(row, texts, donor.columns)
            if isinstance(row, PartialRow) and isinstance(donor, PartialRow):
                row = row._replace(old_key=donor.old_key, after=donor.after)
            earlier.pop()
        return row

    def _pass_on(self, earlier: list[Pending], winner: Pending) -> Pending:
        """Note what the row held each time that its key changed in this window; returns the winner."""
        chain = [*earlier, winner]
        for index, delete in enumerate(chain):
            if not isinstance(delete, Delete) or not delete.moved:
                continue
            before = chain[:index]
            while before and _is_again(delete, before[-1]):
                before.pop()
            if len(before) == index:
                held = self._held(delete, before)
                if isinstance(held, Move):
                    self.moves.setdefault(delete.row_key, []).append(held)
                else:
                    self._shared.moves.deliver(delete.row_key, delete.version, held)
            elif not self._will_tell(delete, chain[len(before) : index]):
                # It was told before, and may have been taken since.
                self._shared.moves.deliver(delete.row_key, delete.version, None)
            if index < len(earlier):
                # It may yet be sent, as what a partial row stands in for.
                earlier[index] = delete._replace(moved=False)
        # From here on it is known; what the store holds may be older than that.
        return winner._replace(moved=False) if isinstance(winner, Delete) else winner

    def _will_tell(self, delete: Delete, same: list[Pending]) -> bool:
        """Whether an earlier copy of a delete, or its lane, is still to tell what the row held."""
        asked = (move.delete for move in self.moves.get(delete.row_key, ()))
        return any(isinstance(each, Delete) and each.moved for each in same) or any(
            same_position(each.version, delete.version) for each in asked
        )

    def _held(self, delete: Delete, earlier: list[Pending]) -> Row | PartialRow | Move | None:
        """What a row held whose key changed, or what to ask its lane if this window cannot tell."""
        if not earlier:
            return Move(delete)
        row = earlier[-1]
        try:
            if isinstance(row, Upsert):
                row = self._shared.rules[row.position.topic].renderer.render(row)
            # guard: taint-moves
            if self._versions.is_tainted(row.row_key, delete.version, since=row.version):
                return None
            if isinstance(row, PartialRow):
                row = self._complete(row, earlier[:-1])
        except RecordError:
            return None
        if isinstance(row, PartialRow) and row.old_key is None:
            return None if row.after == "" else Move(delete, row)
        return None if isinstance(row, Delete) else row

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
