"""The batch source: reads partitions in epochs of bounded size, and replays safely after a crash.

It knows nothing of Kafka: it reads from a `LogReader`, which `operators.kafka.reader` implements.

**Replay.** After a crash the rows of the last, uncommitted epoch may be in Milvus already. If the
replay cut them into other windows, older versions would become visible again. So an epoch takes at
most a capped number of records and bytes, and the cap is committed with the offset at which the epoch
starts. After a start the source first gathers all records under that cap (or up to the end of the
partition) and sends them as one batch, of which only the newest version of each row is written. No
version that was written before the crash can be newer.

**The same log.** The state also has a digest of the last record that was taken. A resume reads that
record again: if the topic was recreated, or belongs to another cluster, the digest differs.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zlib import crc32

from bytewax.inputs import StatefulSourcePartition
from opentelemetry.trace import SpanKind

from operators import crash_points
from operators.errors import FatalError
from operators.kafka.log_reader import BEGINNING, Bounds, LogReader, OffsetGone, Record
from operators.ownership.accept_options import Accept
from operators.ownership.ledger import Ledger
from operators.ownership.ledger_entries import Stamp
from operators.stages.epoch_budget import FIRST_CAP, FIRST_CAP_BYTES, EpochBudget
from operators.stages.window import SourceBatch
from operators.state.source_checkpoint import STATE_FORMAT, PackedPartition, SourceState, read
from operators.telemetry import Telemetry, TraceContext, context_of, partition_labels

IDLE_WAIT = timedelta(milliseconds=5)

FIRST_RECORD_WAIT_S = 60.0

ASK_BOUNDS_AFTER_S = 1.0

BELIEVE_BOUNDS_AFTER_S = 10.0
"""Seconds without a record after which an end offset before it is believed. Apache Kafka reports an
offset out of range at once. Not every broker does, and of those one tells too low an end offset."""


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What all partitions share.

    Attributes:
        batch_size: Most records of one item, except for the first batch after a start.
        stop: True makes every partition end cleanly.
        exit_at_end: End at the end of the partition instead of waiting for more.
        now: Seconds of a monotonic clock.
        on_epoch: Called at every checkpoint of every partition, for the liveness check.
        ledger: Detects state that does not match the topic or collection; None: nothing is checked.
        bounds: Of the partitions, as they were just before the start; for the lag that is told first.
    """

    batch_size: int
    max_epoch_records: int
    max_epoch_bytes: int
    epoch_interval_s: float
    exit_at_end: bool
    stop: Callable[[], bool]
    now: Callable[[], float]
    telemetry: Telemetry
    on_epoch: Callable[[], None] = lambda: None
    sleep: Callable[[float], None] = time.sleep
    ledger: Ledger | None = None
    bounds: Mapping[tuple[str, int], Bounds] = field(default_factory=dict)


class PartitionLogic(StatefulSourcePartition[SourceBatch, SourceState]):
    """One Kafka partition: first gathers records that may have been written before, then streams."""

    def __init__(
        self,
        topic: str,
        partition: int,
        open_reader: Callable[[int], LogReader],
        settings: SourceSettings,
        state: SourceState | None,
    ) -> None:
        record = None if state is None else read(state, f"{topic}[{partition}]")
        if record is None:
            stamp = None
            self._next, self._digest = BEGINNING, None
            max_records, max_bytes = FIRST_CAP, FIRST_CAP_BYTES
        else:
            stamp = Stamp(record["collection"], record["ledger_sequence"])
            self._next, self._digest = record["next_offset"], record["last_digest"]
            max_records, max_bytes = record["epoch_records"], record["epoch_bytes"]
        self._topic = topic
        self._partition = partition
        self._settings = settings
        self._budget = EpochBudget(  # guard: cap-of-the-state
            max_records, max_bytes, settings.epoch_interval_s, settings.now()
        )
        self._epoch = 0
        self._fetched: deque[Record] = deque()
        self._open_reader = open_reader
        if settings.ledger is not None:
            at = None if stamp is None else self._next
            settings.ledger.start.resume(topic, partition, at, stamp)  # guard: seen-asked
        self._reader = self._open()
        if settings.ledger is not None:
            # Without a state, the ledger gets BEGINNING, which is negative. A state at the beginning
            # is told apart from that as offset 0, because its cap may differ from the first cap.
            began = self._next if stamp is None else max(0, self._next)
            settings.ledger.epochs.closed(topic, partition, -1, began)
        self._gathered: list[Record] | None = []
        self._links: dict[TraceContext, None] = {}
        self._idle = False
        self._labels = partition_labels(topic, partition)
        bounds = settings.bounds.get((topic, partition))
        if bounds is not None:
            settings.telemetry.lag.set(bounds.lag(self._next), self._labels)

    def next_batch(self) -> list[SourceBatch]:
        """The next item, or none yet.

        Raises:
            StopIteration: The flow was asked to stop, or `exit_at_end` is set and the end is reached.
        """
        if self._settings.stop():
            raise StopIteration
        gathering = self._gathered is not None
        limit = self._budget.max_records if gathering else self._settings.batch_size
        room = min(self._budget.room(), limit)
        if room > len(self._fetched):
            records, links = self._read(room - len(self._fetched))
            self._fetched.extend(records)
            self._links.update(dict.fromkeys(links))
            if records:
                crash_points.reach("after_fetch")
        taken = self._budget.take(self._fetched, limit)
        ended = not self._fetched and self._reader.at_end()
        self._idle = not taken
        if self._gathered is not None:
            self._gathered += taken
            if self._budget.room() > 0 and not ended:  # guard: gathering
                return []
            taken, self._gathered = self._gathered, None
        elif not taken:
            if ended and self._settings.exit_at_end:
                raise StopIteration
            return []
        return [self._batch(taken, resumed=gathering)]

    def next_awake(self) -> datetime | None:
        """At once if the last call took records, else after a short wait."""
        return datetime.now(UTC) + IDLE_WAIT if self._idle else None

    def snapshot(self) -> SourceState:
        """End the epoch; returns where the next one starts, and its cap.

        While the first batch is still being gathered nothing has been sent, so offset and cap stay.
        """
        settings = self._settings
        settings.on_epoch()
        stamp = Stamp("", 0)
        if settings.ledger is not None:
            ended = max(0, self._next)
            settings.ledger.epochs.closed(self._topic, self._partition, self._epoch, ended)
            stamp = settings.ledger.epochs.stamp(self._topic)
        self._epoch += 1
        if self._gathered is None:  # guard: cap-while-gathering
            took = self._budget.close_epoch(
                settings.now(), settings.max_epoch_records, settings.max_epoch_bytes
            )
            settings.telemetry.epoch_seconds.record(took, self._labels)
        lag = self._reader.lag()
        if lag is not None:
            waiting = len(self._fetched) + len(self._gathered or ())
            settings.telemetry.lag.set(lag + waiting, self._labels)
        budget = self._budget
        record = PackedPartition(
            next_offset=self._next,
            epoch_records=budget.max_records,
            epoch_bytes=budget.max_bytes,
            last_digest=self._digest,
            collection=stamp.identity,
            ledger_sequence=stamp.sequence,
        )
        return STATE_FORMAT, record

    def close(self) -> None:
        """Release the connection."""
        self._reader.close()

    def _open(self) -> LogReader:
        """Open a reader at the next offset, and check the record before it against the digest."""
        if self._digest is None:
            return self._open_reader(self._next)
        reader = self._open_reader(self._next - 1)
        try:
            before = self._first(reader)
        except OffsetGone as gone:
            reader.close()
            if gone.first != self._next:  # guard: record-missed
                self._gone(gone)
            return self._open_reader(self._next)
        if before is None or before[0] >= self._next:
            # Log compaction removed the record, so there is nothing to compare.
            self._fetched.extend(() if before is None else (before,))
            return reader
        if digest_of(before) == self._digest:  # guard: record-digest
            return reader
        reader.close()
        self._recreated("its record before that is another one")
        return self._open_reader(self._next)

    def _first(self, reader: LogReader) -> Record | None:
        """The first record of a reader; None if the partition has none from there on."""
        settings = self._settings
        began = settings.now()
        deadline, ask_at = began + FIRST_RECORD_WAIT_S, began + ASK_BOUNDS_AFTER_S
        while settings.now() < deadline:
            records, links = reader.read(1)
            if records:
                self._links = dict.fromkeys(links) if records[0][0] >= self._next else {}
                return records[0]
            if reader.at_end():
                return None
            if settings.now() >= ask_at:
                bounds = reader.bounds()
                believed = settings.now() - began >= BELIEVE_BOUNDS_AFTER_S
                out = bounds is not None and (
                    bounds.first == bounds.end or (believed and bounds.end < self._next)
                )
                if bounds is not None and out:  # guard: record-out-of-bounds
                    raise OffsetGone(bounds.first)
                ask_at = settings.now() + ASK_BOUNDS_AFTER_S
            settings.sleep(IDLE_WAIT.total_seconds())
        raise FatalError(
            subject=f"{self._topic}[{self._partition}]",
            cause=f"the record at offset {self._next - 1} was not found within "
            f"{FIRST_RECORD_WAIT_S:.0f} s, though it was read before",
            hint="look whether the broker is well, and still has the topic that was read",
        )

    def _read(self, max_records: int) -> tuple[Sequence[Record], Sequence[TraceContext]]:
        try:
            return self._reader.read(max_records)
        except OffsetGone as gone:
            self._gone(gone)
            self._reader.close()
            self._reader = self._open_reader(self._next)
            return (), ()

    def _gone(self, gone: OffsetGone) -> None:
        """Handle a next offset that is gone: continue from another one if the user accepted that."""
        if gone.first < self._next:  # guard: record-shorter
            self._recreated("it ends before that")
            return
        self._refuse(
            Accept.MISSED_RECORDS,
            f"offset {self._next} is no longer there: retention has removed all before {gone.first}",
            "have Debezium make a fresh initial snapshot, and start with an empty recovery directory "
            "and collection",
        )
        self._next = gone.first

    def _recreated(self, sign: str) -> None:
        self._refuse(
            Accept.RECREATED_TOPIC,
            f"it is not the topic that was read up to offset {self._next}: {sign}. It was made anew, "
            "or lost records",
            "name the topic's cluster; or fill the collection anew",
        )
        self._next, self._digest = BEGINNING, None
        if self._settings.ledger is not None:
            self._settings.ledger.entries.forget(self._topic, self._partition)

    def _refuse(self, what: Accept, cause: str, hint: str) -> None:
        subject = f"{self._topic}[{self._partition}]"
        if self._settings.ledger is None:
            raise FatalError(subject=subject, cause=cause, hint=hint)
        self._settings.ledger.start.refuse(what, subject, cause, hint)

    def _batch(self, records: list[Record], *, resumed: bool) -> SourceBatch:
        if self._settings.ledger is not None:
            self._settings.ledger.epochs.emitting(self._epoch)  # guard: seen-told-first
        links, self._links = self._links, {}
        with self._settings.telemetry.span(
            f"poll {self._topic}",
            SpanKind.CLIENT,
            links=links,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "poll",
                "messaging.operation.type": "receive",
                "messaging.batch.message_count": len(records),
                **self._labels,
            },
        ) as span:
            context = context_of(span)
        if records:
            self._next = records[-1][0] + 1  # guard: next-offset
            self._digest = digest_of(records[-1])
            self._settings.telemetry.records_consumed.add(len(records), self._labels)
        return SourceBatch(
            self._topic,
            self._partition,
            resumed,
            tuple(records),
            context,
            last=self._budget.room() <= 0,
        )


def digest_of(record: Record) -> int:
    """A digest of key and value, to recognise the record when it is read again."""
    return crc32(record[2] or b"", crc32(record[1] or b""))
