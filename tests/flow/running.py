"""Runs the real dataflow on Bytewax, with logs and store in memory."""

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from bytewax._bytewax import cluster_main
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink

from flows.sync import Parts, build_flow, ensure_collections
from operators.contract.sections import Contract
from operators.errors import RowvecError
from operators.retry import RetryPolicy
from operators.stages.lane_writer import Receipt
from operators.stages.partitions import PartitionedSource
from operators.stages.source import SourceSettings
from operators.store.protocol import VectorStore
from operators.telemetry import Telemetry
from tests.changes import LetterBox, Log
from tests.fakes import HashEmbedder

EPOCH_S = 0.05


class Crashed(Exception):
    """An error that a test makes a flow end with."""


def run_flow(
    contract: Contract,
    logs: dict[tuple[str, int], Log],
    store: VectorStore,
    recovery: Path,
    *,
    workers: int = 1,
    letters: LetterBox | None = None,
    embedder: HashEmbedder | None = None,
    stop: threading.Event | None = None,
    telemetry: Telemetry | None = None,
) -> list[Receipt]:
    """Run the flow to the end of the logs, or until `stop`.

    Raises:
        Exception: The error that stopped the flow; nothing after the last checkpoint is committed.
    """
    telemetry = telemetry or Telemetry()
    embedder = embedder or HashEmbedder()
    if not recovery.exists():
        recovery.mkdir(mode=0o700)
        init_db_dir(recovery, 4)
    receipts: list[Receipt] = []
    source = PartitionedSource(
        list(logs),
        lambda topic, partition, offset: logs[topic, partition].reader(offset),
        SourceSettings(
            batch_size=7,
            max_epoch_records=contract.flow.max_epoch_records,
            max_epoch_bytes=contract.flow.max_epoch_bytes,
            epoch_interval_s=EPOCH_S,
            exit_at_end=stop is None,
            stop=stop.is_set if stop else lambda: False,
            now=time.monotonic,
            telemetry=telemetry,
        ),
    )
    flow = build_flow(
        Parts(
            contract=contract,
            source=source,
            embedder=embedder,
            store=store,
            dead_letters=letters or LetterBox(),
            receipts=TestingSink(receipts),
            retry=RetryPolicy(1.0, telemetry),
            telemetry=telemetry,
            whole=ensure_collections(contract, embedder, store),
            partitions=list(logs),
        )
    )
    try:
        cluster_main(
            flow.dataflow,
            [],
            0,
            epoch_interval=timedelta(seconds=EPOCH_S),
            recovery_config=RecoveryConfig(str(recovery), timedelta(0)),
            worker_count_per_proc=workers,
        )
    finally:
        flow.close()
    return receipts


def root_cause(error: BaseException) -> BaseException:
    """The error that Bytewax wrapped."""
    while error.__cause__ is not None and not isinstance(error, RowvecError):
        error = error.__cause__
    return error


def texts(store: VectorStore, collection: str) -> dict[str, str]:
    """Entity id → stored text, by full scan."""
    return {row["id"]: row["text"] for row in store.scan(collection, ["text"])}  # type: ignore[attr-defined]


def total(receipts: Sequence[Receipt]) -> Receipt:
    """The sum of all receipts."""
    return Receipt(
        sum(r.rows for r in receipts),
        sum(r.deletes for r in receipts),
        sum(r.dead_letters for r in receipts),
    )
