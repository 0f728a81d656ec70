"""A session: the flow with real clients, and everything that it holds open."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from bytewax.outputs import DynamicSink, StatelessSinkPartition
from opentelemetry.sdk.metrics.export import MetricReader

from flows.exporters import exporters_from_env
from flows.process import open_files, preflight
from flows.process.clock_watch import ClockWatch
from flows.process.observability import Observability
from flows.process.opened import Claim, Opened
from flows.process.partition_watch import PartitionWatch
from flows.sync import Flow, Parts, build_flow
from operators.contract.sections import Contract, KafkaSection
from operators.kafka import topics as kafka_topics
from operators.kafka.dead_letters import DeadLetterProducer
from operators.kafka.reader import KafkaReader
from operators.ownership.accept_options import Accept
from operators.ownership.gate import Gate
from operators.ownership.ledger import Ledger
from operators.retry import RetryPolicy
from operators.stages.lane_writer import Receipt
from operators.stages.partitions import PartitionedSource
from operators.stages.source import SourceSettings

logger = logging.getLogger(__name__)

REFRESH_S = 30.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The number of this process in the flow, and the address `host:port` of every process."""

    process_id: int = 0
    addresses: tuple[str, ...] = ()

    @property
    def processes(self) -> int:
        """Number of processes of the flow; 1 without addresses."""
        return max(1, len(self.addresses))


class Session:
    """A flow and everything that it holds open, from the preflight checks to `close`.

    Threads: a signal handler on the main thread sets `stop`; the worker reads it between batches.

    Attributes:
        flow: The wired flow.
        stop: Set it to end the flow.
    """

    def __init__(self, wiring: "_Wiring", stop: threading.Event, closing: ExitStack) -> None:
        self.stop = stop
        self._wiring = wiring
        self._watch: PartitionWatch | None = None
        self._closing = closing
        self._running = ExitStack()
        closing.callback(self._running.close)
        self._wire()

    @classmethod
    def open(
        cls,
        contract: Contract,
        *,
        heartbeat: Path | None = None,
        exit_at_end: bool = False,
        readers: Sequence[MetricReader] = (),
        cluster: Cluster = Cluster(),
        locks: tuple[str, ...] = (),
        accepted: frozenset[Accept] = frozenset(),
        on_epoch: Callable[[], None] = lambda: None,
        recorded: Sequence[str] = (),
        renews: bool = False,
    ) -> Self:
        """Pass the preflight checks, take the lease, and wire the flow.

        Args:
            contract: The contract to sync by.
            heartbeat: File to touch at every checkpoint.
            exit_at_end: Stop at the end of the topics instead of waiting for more.
            readers: Metric readers besides those of the environment.
            cluster: Number of this process, and the addresses of all.
            locks: See `flows.process.opened.Claim`.
            on_epoch: Called at every checkpoint.
            accepted: Findings that the user accepts for this start.
            recorded: Names of the partitions that the recovery files have.
            renews: The caller runs the flow again for as long as `renewed` says so.

        Raises:
            RowvecError: A check failed. Nothing was read, and all that was opened is closed again.
        """
        stop, abort = threading.Event(), threading.Event()
        with ExitStack() as closing:
            observability = Observability(exporters_from_env(), readers)
            closing.callback(observability.shutdown)
            retry = RetryPolicy(
                contract.milvus.retry_for_s,
                observability.telemetry,
                abort,
                stopping=stop.is_set,
            )
            claim = Claim(retry, cluster.process_id, cluster.processes, locks)
            opened = preflight.pass_all(contract, claim, accepted)
            closing.callback(opened.close)
            assert opened.names is not None
            contract = opened.names.contract
            wiring = _Wiring(
                contract,
                opened,
                observability,
                retry,
                stop=stop,
                exit_at_end=exit_at_end,
                on_epoch=_each(on_epoch, _touching(heartbeat)),
                recorded=tuple(recorded),
            )
            session = cls(wiring, stop, closing)
            clock = ClockWatch()
            closing.callback(clock.close)
            clock.start()
            session._watch_partitions(
                renews=renews and cluster.processes == 1,
                counts=cluster.process_id == 0,  # else each process would count the same records
            )
            # Called first: threads that wait to retry a request give up, and closing waits for them.
            closing.callback(abort.set)
            session._closing = closing.pop_all()
            return session

    def ended(self) -> None:
        """Note that the flow has ended cleanly, so everything it read is committed."""
        self._wiring.ledger.epochs.ended()

    def renewed(self) -> bool:
        """Wire the flow anew if it ended because topics got partitions; it is to be run again then.

        Call it after `ended`. Clients, model and lease stay open.

        Returns:
            False if the flow ended for another reason.
        """
        watch = self._watch
        if watch is None or not self._wiring.drain.is_set() or self.stop.is_set():
            return False
        self._running.close()
        self._wiring.extend(watch.unread)
        self._wire()
        self._watch_partitions(renews=True, counts=True)
        logger.info("Running again, with the new partitions")
        return True

    def close(self) -> None:
        """End the threads, close the connections, and send the last spans and metrics."""
        self._closing.close()

    def _wire(self) -> None:
        self.flow = self._wiring.flow()
        self._running.callback(self.flow.close)

    def _watch_partitions(self, *, renews: bool, counts: bool) -> None:
        wiring = self._wiring
        section = wiring.contract.kafka
        topics = [table.topic for table in wiring.contract.tables]
        self._watch = PartitionWatch(
            wiring.opened.partitions,
            partial(kafka_topics.partitions_now, section, topics),
            partial(kafka_topics.bounds_of, section) if counts else lambda _: {},
            wiring.observability.telemetry,
            wiring.drain.set if renews else lambda: None,
            "as soon as this flow has written what it has read: it runs again by itself"
            if renews
            else "only after all processes of this flow were stopped and started again",
            _refresh_s(section),
        )
        self._watch.start()
        self._running.callback(self._watch.close)


class _Wiring:
    """Builds the flow from what the checks opened; again, if topics get partitions.

    Attributes:
        drain: Set it to end the flow so that it can be built again.
    """

    def __init__(
        self,
        contract: Contract,
        opened: Opened,
        observability: Observability,
        retry: RetryPolicy,
        *,
        stop: threading.Event,
        exit_at_end: bool,
        on_epoch: Callable[[], None],
        recorded: tuple[str, ...],
    ) -> None:
        assert opened.ledger is not None
        self.contract = contract
        self.opened = opened
        self.observability = observability
        self.ledger: Ledger = opened.ledger
        self.drain = threading.Event()
        self._retry = retry
        self._stop = stop
        self._exit_at_end = exit_at_end
        self._on_epoch = on_epoch
        self._recorded = recorded

    def flow(self) -> Flow:
        """The flow over all partitions that are known now."""
        opened, telemetry = self.opened, self.observability.telemetry
        assert opened.store is not None
        assert opened.embedder is not None
        assert opened.lease is not None
        opened.store.fence = opened.lease.gate.writing
        return build_flow(
            Parts(
                contract=self.contract,
                source=self._source(opened.lease.gate),
                embedder=opened.embedder,
                store=opened.store,
                dead_letters=DeadLetterProducer(
                    self.contract.kafka, {t.topic: t.generation for t in self.contract.tables}
                ),
                receipts=_Discard(),
                retry=self._retry,
                telemetry=telemetry,
                whole=opened.collections_empty,
                partitions=opened.partitions,
                framed=opened.framed,
                database=opened.database,
                distrust=self.ledger.start.distrusts,
                read_to_end=lambda: (
                    self._exit_at_end and not (self._stop.is_set() or self.drain.is_set())
                ),
                key_types={t: rules.decoder.key_types for t, rules in opened.rules.items()},
            )
        )

    def extend(self, added: Sequence[tuple[str, int]]) -> None:
        """Have the next flow read more partitions, from where the flow before it has ended.

        Raises:
            FatalError: The process may not open as many files as they need.
        """
        self.opened.partitions = [*self.opened.partitions, *added]
        section = self.contract.kafka
        open_files.allow(
            len(self.opened.partitions),
            kafka_topics.broker_count(section),
            self.contract.recovery.partitions,
        )
        self.opened.collections_empty = False
        self.ledger.run_again()
        self.drain.clear()

    def _source(self, gate: Gate) -> PartitionedSource:
        contract, opened = self.contract, self.opened
        traced = self.observability.traced
        needles = {topic: rule.decoder.header_needles for topic, rule in opened.rules.items()}
        source = PartitionedSource(
            opened.partitions,
            lambda topic, partition, offset: KafkaReader(
                contract.kafka, topic, partition, offset, traced=traced, needles=needles[topic]
            ),
            SourceSettings(
                batch_size=contract.kafka.source_batch_size,
                max_epoch_records=contract.flow.max_epoch_records,
                max_epoch_bytes=contract.flow.max_epoch_bytes,
                epoch_interval_s=contract.recovery.epoch_interval_s,
                exit_at_end=self._exit_at_end,
                stop=_stop_unless_lost((self._stop, self.drain), gate),
                now=time.monotonic,
                telemetry=self.observability.telemetry,
                on_epoch=self._on_epoch,
                ledger=self.ledger,
                bounds=kafka_topics.bounds_of(contract.kafka, opened.partitions),
            ),
            self._recorded,
        )
        if source.parked:
            logger.info(
                "Not read, because no table of the contract needs them, or they are gone: %s. The "
                "recovery directory keeps up to where they were read",
                ", ".join(source.parked),
            )
        return source


def _refresh_s(section: KafkaSection) -> float:
    """Seconds between two looks at the partitions: librdkafka's own setting, if the contract has it."""
    given = section.librdkafka.get("topic.metadata.refresh.interval.ms")
    return REFRESH_S if given is None else max(0.1, float(given) / 1000)


def _stop_unless_lost(ends: Sequence[threading.Event], gate: Gate) -> Callable[[], bool]:
    """Whether the sources should end; raises `FatalError` if the lease was lost."""

    def stops() -> bool:
        gate.check()
        return any(end.is_set() for end in ends)

    return stops


def _each(*calls: Callable[[], None]) -> Callable[[], None]:
    def call_each() -> None:
        for call in calls:
            call()

    return call_each


def _touching(heartbeat: Path | None) -> Callable[[], None]:
    if heartbeat is None:
        return lambda: None
    return heartbeat.touch


class _Discard(DynamicSink[Receipt]):
    """Discards receipts: the metrics count the same already."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "_DiscardPartition":
        return _DiscardPartition()


class _DiscardPartition(StatelessSinkPartition[Receipt]):
    def write_batch(self, items: list[Receipt]) -> None:
        pass
