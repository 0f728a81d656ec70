"""Writing to the store: ordered lanes, receipts, and the snapshot barrier."""

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from operators.stages.lane_writer import Receipt
from operators.stages.lanes import Lane, Lanes
from operators.stages.window import Window


class UpsertLogic(StatefulBatchLogic[Window, Receipt, tuple[()]]):
    """Hands the windows of one shard to its lane; a checkpoint waits until they are written.

    Bytewax commits an epoch after every `snapshot()` of it has returned, so no source offset is ever
    committed before the rows behind it are acknowledged.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._last: tuple[Lane, str, int] | None = None

    def on_batch(self, values: list[Window]) -> tuple[list[Receipt], bool]:
        """Queue the windows; emits what the lane has finished since the last time."""
        shard = values[0].shard
        lane = self._lanes.of(shard)
        for window in values:
            number = lane.submit(window)
        self._last = lane, shard, number
        return lane.receipts(), False

    def on_notify(self) -> tuple[list[Receipt], bool]:
        """Never asked for."""
        return [], False

    def on_eof(self) -> tuple[list[Receipt], bool]:
        """The stream ends: wait, and emit the last receipts."""
        self.snapshot()
        return ([] if self._last is None else self._last[0].receipts()), False

    def snapshot(self) -> tuple[()]:
        """The barrier: returns when everything that was queued for the shard is acknowledged."""
        if self._last is not None:
            lane, shard, number = self._last
            lane.wait(shard, number)  # guard: snapshot-barrier
        return ()


@operator
def upsert(step_id: str, up: KeyedStream[Window], lanes: Lanes) -> KeyedStream[Receipt]:
    """Writes the windows; must have the same key as `dedup`, so that nothing leaves the worker.

    Args:
        step_id: Constant for ever: recovery files are keyed by it.
        up: Windows by shard, with vectors.
        lanes: The lanes of this process.
    """
    return op.stateful_batch("logic", up, lambda _state: UpsertLogic(lanes))
