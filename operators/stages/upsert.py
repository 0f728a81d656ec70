"""The upsert step: hands windows to the lanes, and holds a checkpoint until they are written."""

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from operators.stages.lane_writer import Receipt
from operators.stages.lanes import Lane, Lanes
from operators.stages.window import Window


class UpsertLogic(StatefulBatchLogic[Window, Receipt, tuple[()]]):
    """Hands the windows of one shard to its lane; a checkpoint waits until they are written.

    Bytewax commits an epoch after all its `snapshot()` calls have returned. So no source offset is
    committed before the store has acknowledged the rows of the records before it.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._last: tuple[Lane, str, int] | None = None

    def on_batch(self, values: list[Window]) -> tuple[list[Receipt], bool]:
        """Queue the windows; emits the receipts of the lane since the last call."""
        shard = values[0].shard
        lane = self._lanes.of(shard)
        for window in values:
            number = lane.submit(window)
        self._last = lane, shard, number
        return lane.receipts(), False

    def on_notify(self) -> tuple[list[Receipt], bool]:
        """Not used: no notification is ever scheduled."""
        return [], False

    def on_eof(self) -> tuple[list[Receipt], bool]:
        """At the end of the stream: wait for the lane, and emit the last receipts."""
        self.snapshot()
        return ([] if self._last is None else self._last[0].receipts()), False

    def snapshot(self) -> tuple[()]:
        """The barrier: returns when the store has acknowledged all queued windows of the shard."""
        if self._last is not None:
            lane, shard, number = self._last
            lane.wait(shard, number)  # guard: snapshot-barrier
        return ()


@operator
def upsert(step_id: str, up: KeyedStream[Window], lanes: Lanes) -> KeyedStream[Receipt]:
    """Writes the windows. The key must be that of `dedup`, so that windows stay in their worker.

    Args:
        step_id: Must never change: recovery files are keyed by it.
        up: Windows by shard, with vectors.
        lanes: The lanes of this process.
    """
    return op.stateful_batch("logic", up, lambda _state: UpsertLogic(lanes))
