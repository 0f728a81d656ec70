"""The job of `benchmarks.path` with Bytewax's own operators, used as its documentation teaches.

Each item is one message, each row has its own state, and `collect` makes the batches. It does less
than Rowvec: it renders and hashes no text, drops no events that the store has overtaken, and reads
only the envelope's LSN.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSourceMessage
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from benchmarks.contracts import TOPIC, idle_contract
from benchmarks.envelopes import Change
from benchmarks.measuring import Rate, clocks
from benchmarks.memory import Timing, run_worker
from operators.contract.sections import Contract

Message = KafkaSourceMessage[bytes, bytes]
_BATCH = 1_000
"""The batch size of Bytewax's Kafka source."""


def run_idiomatic(changes: Sequence[Change], warm_up: int, epoch_s: float) -> Rate:
    """Records per second from the end of the warm-up to the end of the log."""
    timing = Timing(warm_up)
    contract = idle_contract()
    flow = Dataflow("idiomatic")
    messages = op.input("source", flow, _Source(changes, timing))
    envelopes = op.map("parse", messages, lambda message: orjson.loads(message.value))
    winners = op.map("winners", newest_in_batches(envelopes, contract), last_of_each)
    op.output("sink", winners, _Sink(timing))
    timing.started = time.perf_counter()
    run_worker(flow, epoch_s, contract.recovery.partitions)
    timing.check(len(changes), len({key for key, _ in changes}))
    return timing.rate


def newest_in_batches(envelopes: Stream[Any], contract: Contract) -> Stream[list[Any]]:
    """Envelopes that are not older than the last one of their row, in batches by window or of 500."""
    rows = op.key_on("row", envelopes, lambda envelope: str(envelope["after"]["id"]))
    newest = op.stateful_map("newest", rows, _newest)
    changed = op.filter_map("changed", op.key_rm("rows", newest), lambda envelope: envelope)
    batches = op.collect(
        "batch",
        op.key_on("together", changed, lambda _: "all"),
        timeout=timedelta(milliseconds=contract.flow.window_ms),
        max_size=contract.milvus.write_batch_rows,
    )
    return op.key_rm("batches", batches)


def last_of_each(envelopes: list[Any]) -> list[Any]:
    """The last version of each row in a batch."""
    return list({envelope["after"]["id"]: envelope["after"] for envelope in envelopes}.values())


def _newest(version: int | None, envelope: Any) -> tuple[int | None, Any]:
    lsn = envelope["source"]["lsn"]
    if version is not None and lsn < version:
        return version, None
    return lsn, envelope


class _Source(FixedPartitionedSource[Message, int]):
    def __init__(self, changes: Sequence[Change], timing: Timing) -> None:
        self._changes = changes
        self._timing = timing

    def list_parts(self) -> list[str]:
        return ["0"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "_Partition":
        return _Partition(self._changes, resume_state or 0, self._timing)


class _Partition(StatefulSourcePartition[Message, int]):
    def __init__(self, changes: Sequence[Change], offset: int, timing: Timing) -> None:
        self._changes = changes
        self._next = offset
        self._timing = timing

    def next_batch(self) -> list[Message]:
        # Its epochs do not grow, so the warm-up needs no checkpoint to end.
        self._timing.checkpoint = True
        self._timing.before_read()
        first = self._next
        batch = self._changes[first : first + _BATCH]
        if not batch:
            raise StopIteration
        self._next += len(batch)
        self._timing.records += len(batch)
        return [
            KafkaSourceMessage(key, value, TOPIC, offset=first + i, partition=0)
            for i, (key, value) in enumerate(batch)
        ]

    def snapshot(self) -> int:
        return self._next


class _Sink(DynamicSink[list[Any]]):
    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "_SinkPartition":
        return _SinkPartition(self._timing)


class _SinkPartition(StatelessSinkPartition[list[Any]]):
    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def write_batch(self, items: list[list[Any]]) -> None:
        for rows in items:
            self._timing.winners += len(rows)
            self._timing.ids.update([str(row["id"]) for row in rows])
        self._timing.ended = clocks()
