"""The flow: pure wiring of the stages. Step ids are constants, because recovery files know them."""

from dataclasses import dataclass
from datetime import UTC, datetime

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

from operators.contract import Contract
from operators.dedup import DedupContext, WindowClock, dedup
from operators.embed import EmbedStep, embed
from operators.embedding import Embedder
from operators.rendering import Renderer
from operators.resolve import Resolver, resolve
from operators.retry import RetryPolicy
from operators.route import Router, route
from operators.source import SourceBatch
from operators.store import CollectionSpec, VectorStore
from operators.telemetry import Telemetry
from operators.upsert import Lanes, upsert
from operators.writer import DeadLetterSink, Receipt, Writer

FLOW_ID = "rowvec"
SOURCE = "source"
ROUTE = "route"
DEDUP = "dedup"
RESOLVE = "resolve"
EMBED = "embed"
UPSERT = "upsert"
RECEIPTS = "receipts"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the flow works with.

    Attributes:
        whole: All collections were empty when the process started.
    """

    contract: Contract
    source: Source[SourceBatch]
    embedder: Embedder
    store: VectorStore
    dead_letters: DeadLetterSink
    receipts: Sink[Receipt]
    retry: RetryPolicy
    telemetry: Telemetry
    whole: bool


@dataclass(frozen=True, slots=True)
class Flow:
    """The dataflow, and the threads to end when it has ended."""

    dataflow: Dataflow
    lanes: Lanes


def collection_specs(contract: Contract, embedder: Embedder) -> list[CollectionSpec]:
    """What the collections of a contract must be, one spec for each."""
    specs = {
        table.collection: CollectionSpec(
            name=table.collection,
            fields={field: table.columns[column] for column, field in table.fields().items()},
            dim=embedder.dim,
            metric=table.metric,
            model=embedder.model,
        )
        for table in contract.tables
    }
    return list(specs.values())


def ensure_collections(contract: Contract, embedder: Embedder, store: VectorStore) -> bool:
    """Create or check every collection of the contract.

    Returns:
        True if all of them are empty.

    Raises:
        FatalError: One is there and is not what the contract says.
    """
    # Every one of them, before the first answer is looked at.
    empty = [store.ensure(spec) for spec in collection_specs(contract, embedder)]
    return all(empty)


def build_flow(parts: Parts) -> Flow:
    """Wire the stages: source, route, dedup, resolve, embed, upsert, receipts."""
    contract = parts.contract
    tables = {table.topic: table for table in contract.tables}
    lanes = Lanes(
        Writer(
            tables,
            parts.store,
            parts.embedder,
            parts.dead_letters,
            parts.retry,
            parts.telemetry,
            batch_rows=contract.milvus.write_batch_rows,
        ),
        min(contract.milvus.write_lanes, parts.store.max_writers or contract.milvus.write_lanes),
    )
    shared = DedupContext(
        tables={topic: (table, Renderer(table)) for topic, table in tables.items()},
        clock=WindowClock(
            contract.flow.window_ms / 1000, contract.flow.window_max_rows, lambda: datetime.now(UTC)
        ),
        telemetry=parts.telemetry,
        horizon_s=contract.flow.horizon_s,
        whole=parts.whole,
    )
    flow = Dataflow(FLOW_ID)
    batches = op.input(SOURCE, flow, parts.source)
    shards = route(ROUTE, batches, Router(tables))
    winners = dedup(DEDUP, shards, shared)
    resolved = resolve(
        RESOLVE, winners, Resolver(tables, parts.store, parts.retry, parts.telemetry)
    )
    embedded = embed(EMBED, resolved, EmbedStep(parts.embedder, parts.telemetry))
    written = upsert(UPSERT, embedded, lanes)
    op.output(RECEIPTS, op.key_rm("receipt", written), parts.receipts)
    return Flow(flow, lanes)
