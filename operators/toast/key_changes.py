"""What rows held whose primary key changed, for the rows that they became."""

import threading
from collections import OrderedDict
from enum import Enum
from typing import TypeAlias

from operators.changes.row_key import RowKey
from operators.changes.rows import PartialRow, Row
from operators.changes.version import Version, position_key
from operators.toast.donor import Donor

KEPT_CHARACTERS = 64 * 1024 * 1024
"""How much text may wait in `Moves` for the rows under their new keys; the oldest is dropped."""

MIN_KEPT = 1_024
"""What each entry counts at least, in characters."""

MOVE_WAIT_S = 10.0
"""How long a row waits in its window for the delete of its old key to be read."""

Held: TypeAlias = Row | PartialRow | Donor | None
"""What a row held before its key changed; None if that is not known.

A partial row waits in turn for what its own old key held.
"""


class MoveStage(Enum):
    """How far the old key's side is with a change of a key."""

    UNKNOWN = 0
    ANNOUNCED = 1
    """The delete of the old key was read."""

    DISPATCHED = 2
    """Its lane has it, and will deliver what the row held."""

    DELIVERED = 3


class Moves:
    """What rows held whose primary key changed, for the rows that they became.

    The delete of the old key and the row under the new key lie in different shards, and in different
    lanes. The delete's side announces, dispatches and delivers what the row held; the new row takes it.
    This is kept in the process's memory alone: after a crash in between, or in a flow of several
    processes, the value has to come from the database, or the new row becomes a dead letter.

    Threads share all of it under `_lock`: the worker announces and dispatches, the lane of the old key
    delivers, the lane of the new one takes.
    """

    def __init__(self, characters: int = KEPT_CHARACTERS) -> None:
        self._lock = threading.RLock()
        self._coming: dict[tuple[RowKey, str], MoveStage] = {}
        self._kept: OrderedDict[tuple[RowKey, str], Held] = OrderedDict()
        self._characters = characters
        self._size = 0
        self._error: BaseException | None = None

    def announce(self, old_key: RowKey, version: Version) -> None:
        """Say that the delete of an old key was read: what the row held will be delivered."""
        self._advance(old_key, version, MoveStage.ANNOUNCED)

    def dispatch(self, old_key: RowKey, version: Version) -> None:
        """Say that the delete has been sent to its lane, which will deliver what the row held."""
        self._advance(old_key, version, MoveStage.DISPATCHED)

    def _advance(self, old_key: RowKey, version: Version, stage: MoveStage) -> None:
        move = (old_key, position_key(version))
        with self._lock:
            if move not in self._kept:
                self._coming[move] = stage

    def deliver(self, old_key: RowKey, version: Version, held: Held) -> None:
        """Keep what the row held under its old key, until `take`; None if that is not known."""
        move = (old_key, position_key(version))
        with self._lock:
            self._coming.pop(move, None)
            if move in self._kept:
                before = self._kept.pop(move)
                self._size -= _size(before)
                # Debezium sent the delete again, and by now the store has nothing: keep the first.
                held = before if held is None else held  # guard: left-out-told-again
            self._kept[move] = held
            self._size += _size(held)
            while self._size > self._characters and len(self._kept) > 1:
                self._size -= _size(self._kept.popitem(last=False)[1])

    def stage(self, old_key: RowKey, version: str) -> MoveStage:
        """How far a change of a key is; if the row held a partial one, how far that one's key is.

        Raises:
            BaseException: What ended a lane, which therefore delivers nothing any more.
        """
        move = (old_key, position_key(version))
        seen = {move}
        with self._lock:
            if self._error is not None:
                raise self._error
            while True:
                held = self._kept.get(move)
                if not isinstance(held, PartialRow) or held.key_change is None:
                    break
                earlier_key, earlier_version = held.key_change
                move = (earlier_key, position_key(earlier_version))
                if move in seen:
                    # Broken headers: each key is said to come from the other. Nothing more will come.
                    return MoveStage.DELIVERED  # guard: key-changes-in-a-circle
                seen.add(move)
            return (
                MoveStage.DELIVERED
                if move in self._kept
                else self._coming.get(move, MoveStage.UNKNOWN)
            )

    def take(self, old_key: RowKey, version: str) -> Held:
        """What the row held under its old key; it is forgotten here."""
        move = (old_key, position_key(version))
        with self._lock:
            if move not in self._kept:
                return None
            held = self._kept.pop(move)
            self._size -= _size(held)
            return held

    def fail(self, error: BaseException) -> None:
        """Let `stage` raise what ended a lane, so that no other lane waits for it."""
        with self._lock:
            self._error = error  # guard: left-out-lane-ended


def _size(held: Held) -> int:
    if held is None:
        return MIN_KEPT
    texts = (held.text,) if isinstance(held, Row) else held.texts.values()
    values = (*texts, *held.columns.values())
    return MIN_KEPT + sum(len(value) for value in values if isinstance(value, str))
