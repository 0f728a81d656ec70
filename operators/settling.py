"""What the changes of a window leave of each row: rendered, completed, or a dead letter."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from operators.carrying import Moves
from operators.dedup_state import Pending
from operators.errors import RecordError
from operators.events import (
    DeadLetter,
    Delete,
    KafkaPosition,
    Move,
    PartialRow,
    RowKey,
    Truncate,
    Upsert,
    has_position,
)
from operators.rendering import Rendered, Rules, texts_of
from operators.telemetry import Telemetry
from operators.versions import VersionMap
from operators.windows import WindowClock

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
    """

    rules: Mapping[str, Rules]
    clock: WindowClock
    telemetry: Telemetry
    horizon_s: float
    whole: bool
    partitions: frozenset[tuple[str, int]] = frozenset()
    moves: Moves = field(default_factory=Moves)


class Settler:
    """Settles the pending changes of one shard.

    Attributes:
        moves: Rows whose key changed within a window, for the lane to read what they held.
        dead: Dead letters that wait for the window to close.
    """

    def __init__(self, shared: DedupContext, versions: VersionMap) -> None:
        self._shared = shared
        self._versions = versions
        # What pending rows have superseded in this window, should they turn out to be bad or partial.
        self._superseded: dict[RowKey, list[Pending]] = {}
        self.moves: list[Move] = []
        self.dead: list[DeadLetter] = []

    def supersede(self, before: Pending) -> None:
        """Note what a newer change of the row takes the place of."""
        self._superseded.setdefault(before.row_key, []).append(before)

    def truncate(self, key: RowKey, truncate: Truncate) -> None:
        """Forget of a row what a TRUNCATE took."""
        if key in self._superseded:
            kept = [each for each in self._superseded[key] if not is_before(each, truncate)]
            self._superseded[key] = kept

    def settle(self, pending: dict[RowKey, Pending]) -> None:
        """Turn pending upserts into rows; those that cannot be rendered become dead letters.

        A bad change leaves its row as it was, and that is what it superseded in this window: whether
        the two met in one window must not decide what is seen.
        """
        superseded = self._superseded
        for key, winner in list(pending.items()):
            earlier = superseded.get(key, []) if superseded else []
            if earlier:
                self._pass_on(earlier, winner)
            while isinstance(winner, Upsert):
                rendered = self._rendered(winner)
                if rendered is not None:
                    winner = rendered
                elif earlier:
                    winner = earlier.pop()
                else:
                    del pending[key]
                    break
            else:
                if isinstance(winner, PartialRow):
                    winner = self._completed(winner, earlier)
                pending[key] = winner
        superseded.clear()

    def _rendered(self, upsert: Upsert) -> Rendered | None:
        """The row, or None if it is bad, which its dead letter tells."""
        try:
            return self._shared.rules[upsert.position.topic].renderer.render(upsert)
        except RecordError as error:
            self._versions.taint(upsert.row_key, upsert.version)
            self.bury(upsert.position, "render", error, upsert.row_key, None, upsert.raw)
            return None

    def _completed(self, partial: PartialRow, earlier: list[Pending]) -> Rendered:
        """What Debezium left out, from the versions that the row superseded in this window."""
        renderer = self._shared.rules[partial.position.topic].renderer
        row: Rendered = partial
        while isinstance(row, PartialRow) and row.old_key is None and earlier:
            donor = earlier.pop()
            if isinstance(donor, Upsert):
                try:
                    donor = renderer.render(donor)
                except RecordError:
                    # It was superseded, so no letter; but what came before it is not its like.
                    self._versions.taint(row.row_key, row.version)
                    break
                if isinstance(donor, Delete):
                    continue  # it was only kept out; the store still holds what it was
            if isinstance(donor, Delete):
                # What the store holds is from before the delete.
                self._versions.taint(row.row_key, row.version)
                row = row._replace(reborn=True)
                break
            texts = donor.texts if isinstance(donor, PartialRow) else texts_of(donor)
            row = renderer.complete(row, texts, donor.columns)
            if isinstance(row, PartialRow) and isinstance(donor, PartialRow):
                row = row._replace(old_key=donor.old_key, after=donor.after, reborn=donor.reborn)
        return row

    def _pass_on(self, earlier: list[Pending], winner: Pending) -> None:
        """Look for changes of the key among what a row went through in this window."""
        chain = [*earlier, winner]
        for index, each in enumerate(chain):
            if isinstance(each, Delete) and each.moved:
                if index:
                    self._hand_over(each, chain[:index])
                else:
                    self.announce(self.moves, each, None)

    def _hand_over(self, delete: Delete, earlier: list[Pending]) -> None:
        """Keep what a row held whose key changed, as far as this window knows it."""
        row = earlier[-1]
        if isinstance(row, Upsert):
            try:
                row = self._shared.rules[row.position.topic].renderer.render(row)
            except RecordError:
                self._shared.moves.put(delete.row_key, delete.version, None)
                return
        if isinstance(row, PartialRow):
            row = self._completed(row, earlier[:-1])
        if isinstance(row, PartialRow) and row.old_key is None:
            known = self._versions.get(row.row_key)
            after = row.after if known is None else known[0]
            self.announce(self.moves, delete, row._replace(after=after))
        else:
            held = None if isinstance(row, Delete) else row
            self._shared.moves.put(delete.row_key, delete.version, held)

    def announce(self, moves: list[Move], delete: Delete, held: PartialRow | None) -> None:
        """Let the lane read what a row held whose key changed, and keep it."""
        if self._shared.moves.is_known(delete.row_key, delete.version):
            return
        if self._versions.is_tainted(delete.row_key):
            self._shared.moves.put(delete.row_key, delete.version, None)
        else:
            self._shared.moves.announce(delete.row_key, delete.version)
            moves.append(Move(delete, held))

    def bury(
        self,
        position: KafkaPosition,
        stage: str,
        error: RecordError,
        row_key: str,
        key: bytes | None,
        value: bytes | None,
    ) -> None:
        """Make a dead letter. What is too large, or may hold what is masked, stays in the topic."""
        masked = bool(self._shared.rules[position.topic].table.masks)
        if masked or (key is not None and len(key) > MAX_DEAD_LETTER_BYTES):
            key = None
        if masked or (value is not None and len(value) > MAX_DEAD_LETTER_BYTES):
            value = None
        self.dead.append(
            DeadLetter(position, stage, error.subject, error.cause, error.hint, key, value, row_key)
        )


def is_before(winner: Pending, truncate: Truncate) -> bool:
    """Whether a TRUNCATE took a row; one without a position is not known to be older."""
    return has_position(winner.version) and winner.version < truncate.version
