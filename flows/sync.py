"""Wires the stages into the flow. Step ids must never change, because recovery files contain them."""

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

from operators.codec.decoder import Decoder
from operators.codec.key_types import KeyTypes
from operators.codec.messages import FramedDecoder
from operators.contract.sections import Contract
from operators.errors import FatalError
from operators.model.protocol import Embedder
from operators.model.text_vectors import Texts
from operators.rendering.added_columns import AddedColumns
from operators.rendering.masks import Masker
from operators.rendering.renderer import Renderer, Rules
from operators.retry import RetryPolicy
from operators.stages.dedup import dedup
from operators.stages.embed import EmbedStep, embed
from operators.stages.lane_writer import DeadLetterSink, Receipt, Writer
from operators.stages.lanes import Lanes
from operators.stages.look_up import LookUp, look_up
from operators.stages.route import Router, route
from operators.stages.settle import DedupContext
from operators.stages.upsert import upsert
from operators.stages.window import SourceBatch
from operators.stages.window_clock import WindowClock
from operators.store.protocol import IN_CHUNKS, CollectionSpec, VectorStore
from operators.store.row_requests import Requests
from operators.telemetry import Telemetry
from operators.toast.completer import Completer, Database
from operators.toast.key_changes import Moves

FLOW_ID = "rowvec"

SOURCE = "source"

ROUTE = "route"

DEDUP = "dedup"

RESOLVE = "resolve"

EMBED = "embed"

UPSERT = "upsert"

RECEIPTS = "receipts"

SOURCE_STEP = f"{FLOW_ID}.{SOURCE}"
"""What recovery files call the source."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that the flow is built from.

    Attributes:
        whole: All collections were empty when the process started.
        partitions: All partitions that the sources of all processes read: (topic, partition).
        framed: Decodes messages that name their schema in a registry.
        database: The SQL database, to be asked for columns that Debezium left out.
        distrust: Whether versions of rows in the recovery state may be wrong and must be looked up.
        read_to_end: See `DedupContext`.
        key_types: By topic, what is known of its key columns, and learned while the flow runs.
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
    partitions: Collection[tuple[str, int]] = ()
    framed: FramedDecoder | None = None
    database: Database | None = None
    distrust: bool = False
    read_to_end: Callable[[], bool] = lambda: False
    key_types: Mapping[str, KeyTypes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flow:
    """The dataflow, and its threads, which must be ended after it.

    The worker thread runs the stages; the lanes and the embed step have threads of their own, and hand
    results over through their own locks.
    """

    dataflow: Dataflow
    lanes: Lanes
    model: EmbedStep

    def close(self) -> None:
        """End the threads; rows that are still queued are not written."""
        self.model.close()
        self.lanes.close()


def collection_specs(contract: Contract, embedder: Embedder) -> list[CollectionSpec]:
    """The specification of each collection of the contract."""
    specs = {
        table.collection: CollectionSpec(
            name=table.collection,
            fields={field: table.columns[column] for column, field in table.fields().items()},
            dim=embedder.dim,
            metric=table.metric,
            model=embedder.model + _chunk_sizes(contract, table.collection),
            extra_fields=any(
                other.drift.added == "add"
                for other in contract.tables
                if other.collection == table.collection
            ),
        )
        for table in contract.tables
    }
    return list(specs.values())


def _chunk_sizes(contract: Contract, collection: str) -> str:
    """Chunk sizes as part of the model's identity: with other ones, all vectors must be made again."""
    sizes = [
        f"{table.name} {table.chunks.max_tokens}+{table.chunks.overlap_tokens}"
        for table in contract.tables
        if table.collection == collection and table.chunks is not None
    ]
    return IN_CHUNKS + ", ".join(sorted(sizes)) if sizes else ""


def ensure_collections(contract: Contract, embedder: Embedder, store: VectorStore) -> bool:
    """Create or check every collection of the contract.

    Returns:
        True if all of them are empty.

    Raises:
        FatalError: An existing collection does not match the contract.
    """
    for table in contract.tables:
        if table.drift.added == "add" and not store.can_add_fields:
            raise FatalError(
                subject=f'tables: {table.name}, drift.added = "add"',
                cause="this Milvus cannot add fields to a collection",
                hint="use a Milvus server from 2.6 on, or another policy",
            )
    # A list, not a generator: all() must not stop before every collection was ensured.
    empty = [store.ensure(spec) for spec in collection_specs(contract, embedder)]
    return all(empty)


def rules_of(
    contract: Contract,
    framed: FramedDecoder | None = None,
    store: VectorStore | None = None,
    retry: RetryPolicy | None = None,
    key_types: Mapping[str, KeyTypes] | None = None,
) -> dict[str, Rules]:
    """The decoder and renderer of each topic.

    Args:
        contract: The contract with the tables.
        framed: Decodes messages that name their schema in a registry.
        store: Gets new fields if the contract says `added = "add"`; its collections are checked.
        retry: For requests to the store.
        key_types: See `Parts`.
    """
    known = key_types or {}
    rules: dict[str, Rules] = {}
    for table in contract.tables:
        masker = Masker(table, contract.masking)
        masked_key = {c: partial(masker.value, c) for c in table.key if c in table.masks}
        decoder = Decoder(table, framed, masked_key, known.get(table.topic))
        added = None
        if table.drift.added == "add" and store is not None and retry is not None:
            added = AddedColumns(table, store, retry)
        rules[table.topic] = Rules(table, decoder, Renderer(table, masker, added))
    return rules


def build_flow(parts: Parts) -> Flow:
    """Wire the stages: source, route, dedup, resolve, embed, upsert, receipts."""
    contract, telemetry = parts.contract, parts.telemetry
    rules = rules_of(contract, parts.framed, parts.store, parts.retry, parts.key_types)
    moves = Moves()
    texts = Texts(
        parts.embedder,
        telemetry,
        {table.name: table.chunks for table in contract.tables},
        contract.embedding.cache_texts,
    )
    lanes = Lanes(  # guard: lite-one-lane
        Writer(
            rules,
            Requests(parts.store, parts.retry, telemetry, contract.milvus.write_batch_rows),
            Completer(rules, moves, parts.retry, parts.database),
            texts,
            parts.embedder.model,
            parts.dead_letters,
            telemetry,
        ),
        min(contract.milvus.write_lanes, parts.store.max_writers or contract.milvus.write_lanes),
    )
    pool = ThreadPoolExecutor(parts.embedder.calls_at_once, "rowvec-embed")
    step = EmbedStep(parts.embedder, texts, telemetry, pool, lanes.look)
    shared = DedupContext(
        rules=rules,
        clock=WindowClock(
            contract.flow.window_ms / 1000, contract.flow.window_max_rows, lambda: datetime.now(UTC)
        ),
        telemetry=telemetry,
        horizon_s=contract.flow.horizon_s,
        whole=parts.whole,
        partitions=frozenset(parts.partitions),
        moves=moves,
        distrust=parts.distrust,
        read_to_end=parts.read_to_end,
    )
    tables = {table.topic: table for table in contract.tables}
    flow = Dataflow(FLOW_ID)
    batches = op.input(SOURCE, flow, parts.source)
    shards = route(ROUTE, batches, Router({t: rule.decoder for t, rule in rules.items()}))
    winners = dedup(DEDUP, shards, shared)
    resolved = look_up(
        RESOLVE, winners, LookUp(tables, parts.store, parts.retry, telemetry, shared.places)
    )
    embedded = embed(EMBED, resolved, step)
    written = upsert(UPSERT, embedded, lanes)
    op.output(RECEIPTS, op.key_rm("receipt", written), parts.receipts)
    return Flow(flow, lanes, step)
