"""A session: the flow with real clients, and everything that it holds open."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bytewax.outputs import DynamicSink, StatelessSinkPartition
from opentelemetry.sdk.metrics.export import MetricReader

from flows.process import preflight
from flows.process.observability import Observability
from flows.settings import exporters_from_env
from flows.sync import Flow, Parts, build_flow
from operators.contract.sections import Contract
from operators.kafka.dead_letters import DeadLetterProducer
from operators.kafka.reader import KafkaReader
from operators.ownership.accept_options import Accept
from operators.ownership.gate import Gate
from operators.ownership.ledger import Ledger
from operators.retry import RetryPolicy
from operators.stages.lane_writer import Receipt
from operators.stages.source import PartitionedSource, SourceSettings


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

    def __init__(
        self, flow: Flow, ledger: Ledger, stop: threading.Event, closing: ExitStack
    ) -> None:
        self.flow = flow
        self.stop = stop
        self._ledger = ledger
        self._closing = closing

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
    ) -> Self:
        """Pass the preflight checks, take the lease, and wire the flow.

        Args:
            contract: The contract to sync by.
            heartbeat: File to touch at every checkpoint.
            exit_at_end: Stop at the end of the topics instead of waiting for more.
            readers: Metric readers besides those of the environment.
            cluster: Number of this process, and the addresses of all.
            locks: See `preflight.Claim`.
            on_epoch: Called at every checkpoint.
            accepted: Findings that the user accepts for this start.

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
            claim = preflight.Claim(retry, cluster.process_id, cluster.processes, locks, accepted)
            opened = preflight.pass_all(contract, claim)
            closing.callback(opened.close)
            assert opened.store is not None
            assert opened.embedder is not None
            assert opened.ledger is not None
            assert opened.lease is not None
            opened.store.fence = opened.lease.gate.writing
            source = _source(
                contract,
                opened,
                observability,
                stop=_stop_unless_lost(stop, opened.lease.gate),
                exit_at_end=exit_at_end,
                on_epoch=_each(on_epoch, _touching(heartbeat)),
            )
            flow = build_flow(
                Parts(
                    contract=contract,
                    source=source,
                    embedder=opened.embedder,
                    store=opened.store,
                    dead_letters=DeadLetterProducer(
                        contract.kafka, {t.topic: t.generation for t in contract.tables}
                    ),
                    receipts=_Discard(),
                    retry=retry,
                    telemetry=observability.telemetry,
                    whole=opened.collections_empty,
                    partitions=opened.partitions,
                    framed=opened.framed,
                    database=opened.database,
                    distrust=opened.ledger.start.distrusts,
                    key_types={t: rules.decoder.key_types for t, rules in opened.rules.items()},
                )
            )
            closing.callback(flow.close)
            # Called first: threads that wait to retry a request give up, and flow.close waits for them.
            closing.callback(abort.set)
            return cls(flow, opened.ledger, stop, closing.pop_all())

    def ended(self) -> None:
        """Note that the flow has ended cleanly, so everything it read is committed."""
        self._ledger.epochs.ended()

    def close(self) -> None:
        """End the threads, close the connections, and send the last spans and metrics."""
        self._closing.close()


def _source(
    contract: Contract,
    opened: preflight.Opened,
    observability: Observability,
    *,
    stop: Callable[[], bool],
    exit_at_end: bool,
    on_epoch: Callable[[], None],
) -> PartitionedSource:
    traced = observability.traced
    needles = {topic: rule.decoder.header_needles for topic, rule in opened.rules.items()}
    return PartitionedSource(
        opened.partitions,
        lambda topic, partition, offset: KafkaReader(
            contract.kafka, topic, partition, offset, traced=traced, needles=needles[topic]
        ),
        SourceSettings(
            batch_size=contract.kafka.source_batch_size,
            max_epoch_records=contract.flow.max_epoch_records,
            max_epoch_bytes=contract.flow.max_epoch_bytes,
            epoch_interval_s=contract.recovery.epoch_interval_s,
            exit_at_end=exit_at_end,
            stop=stop,
            now=time.monotonic,
            telemetry=observability.telemetry,
            on_epoch=on_epoch,
            ledger=opened.ledger,
        ),
    )


def _stop_unless_lost(stop: threading.Event, gate: Gate) -> Callable[[], bool]:
    """Whether the sources should end; raises `FatalError` if the lease was lost."""

    def stops() -> bool:
        gate.check()
        return stop.is_set()

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
