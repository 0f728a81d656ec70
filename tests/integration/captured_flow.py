"""Runs captured messages through the flow's real stages and lanes, with a fake clock."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from flows.sync import ensure_collections, rules_of
from operators.changes.events import DeadLetter
from operators.contract.sections import Contract
from operators.kafka.log_reader import Record
from operators.kafka.reader import record_of
from operators.model.text_vectors import Texts
from operators.retry import RetryPolicy
from operators.stages.dedup import DedupLogic
from operators.stages.embed import EmbedStep
from operators.stages.lane_writer import Writer
from operators.stages.lanes import Lanes
from operators.stages.look_up import LookUp
from operators.stages.route import Router
from operators.stages.settle import DedupContext
from operators.stages.window import SourceBatch, Window
from operators.stages.window_clock import WindowClock
from operators.store.row_requests import Requests
from operators.telemetry import Telemetry
from operators.toast.completer import Completer, Database
from operators.toast.key_changes import Moves
from tests.captured import Message
from tests.changes import LetterBox
from tests.fakes import HashEmbedder, MemoryStore

WINDOW_S = 0.2
LANES = 4
_PATIENCE_S = 60.0


class CapturedFlow:
    """Everything between Kafka and Milvus, starting with empty collections.

    Like the real source, it skips messages of topics that the contract does not name. It assigns new
    offsets in the order in which messages are fed.

    Args:
        contract: The tables that are read.
        messages: All messages that will be fed; only their partitions are used.
        database: Asked for values that Debezium left out.
    """

    def __init__(
        self,
        contract: Contract,
        messages: Iterable[Message],
        database: Database | None = None,
    ) -> None:
        tables = {table.topic: table for table in contract.tables}
        partitions = {(m.topic, m.partition) for m in messages if m.topic in tables}
        telemetry, retry = Telemetry(), RetryPolicy(0.0, Telemetry())
        rules = rules_of(contract)
        moves = Moves()
        self._embedder = HashEmbedder()
        self._store = MemoryStore()
        self._letters = LetterBox()
        self._topics = tables.keys()
        self._rules = rules
        self._now = datetime(2026, 1, 1, tzinfo=UTC)
        self._offsets: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._router = Router({topic: rule.decoder for topic, rule in rules.items()})
        self._shared = DedupContext(
            rules=rules,
            clock=WindowClock(WINDOW_S, 10_000, lambda: self._now),
            telemetry=telemetry,
            horizon_s=3600.0,
            whole=ensure_collections(contract, self._embedder, self._store),
            partitions=frozenset(partitions),
            moves=moves,
        )
        self._shards: dict[str, DedupLogic] = {}
        self._resolver = LookUp(tables, self._store, retry, telemetry, self._shared.places)
        texts = Texts(self._embedder, telemetry, {t.name: t.chunks for t in tables.values()}, 64)
        self._embed = EmbedStep(self._embedder, texts, telemetry)
        writer = Writer(
            rules,
            Requests(self._store, retry, telemetry, batch_rows=5),
            Completer(rules, moves, retry, database),
            texts,
            self._embedder.model,
            self._letters,
            telemetry,
        )
        self._lanes = Lanes(writer, LANES)
        # A first start, with nothing to replay: each partition's first batch is empty.
        self._route(
            [SourceBatch(topic, number, True, (), None) for topic, number in sorted(partitions)]
        )

    def close(self) -> None:
        self._lanes.close()

    @property
    def letters(self) -> Sequence[DeadLetter]:
        """The dead letters so far."""
        return self._letters.letters

    def feed(self, messages: Iterable[Message]) -> None:
        """Let the source emit the messages, one batch per partition, in order of first appearance."""
        batches: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
        for message in messages:
            if message.topic in self._topics:
                batches[message.topic, message.partition].append(self._record(message))
        self._route(
            [
                SourceBatch(topic, partition, False, tuple(records), None)
                for (topic, partition), records in batches.items()
            ]
        )

    def close_windows(self) -> None:
        """Advance the clock by one window, and write the windows that are due."""
        self._now += timedelta(seconds=WINDOW_S)
        items: list[tuple[str, Window]] = []
        for shard, logic in self._shards.items():
            due = logic.notify_at()
            if due is not None and due <= self._now:
                windows, _ = logic.on_notify()
                items += [(shard, window) for window in windows]
        tickets = []
        for shard, window in self._embed(self._resolver(items)):
            lane = self._lanes.of(shard)
            tickets.append((lane, shard, lane.submit(window)))
        for lane, shard, number in tickets:
            lane.wait(shard, number)

    def drain(self) -> None:
        """Advance the clock until no change is pending."""
        ends = self._now + timedelta(seconds=_PATIENCE_S)
        while any(logic.notify_at() is not None for logic in self._shards.values()):
            assert self._now < ends, "a window never closes"
            self.close_windows()

    def rows(self, collection: str) -> list[dict[str, Any]]:
        """Text and mirrored fields of every row; fails on a duplicate entity or a wrong vector."""
        entities = list(self._store.scan(collection))
        ids = [entity["id"] for entity in entities]
        assert len(set(ids)) == len(ids) == self._store.count(collection)
        vectors = self._store.vectors(collection, ids)
        for entity in entities:
            vector = self._embedder.embed([entity["text"]])[0]
            np.testing.assert_array_equal(vectors[entity["id"]][1], vector)
        return [
            {name: value for name, value in entity.items() if _is_of_the_row(name)}
            for entity in entities
        ]

    @property
    def topics(self) -> Collection[str]:
        """The topics of the contract."""
        return self._topics

    def rows_of(self, topic: str) -> list[dict[str, Any]]:
        """Like `rows`, for the collection of a topic."""
        return self.rows(self._rules[topic].table.collection)

    def _route(self, batches: list[SourceBatch]) -> None:
        for shard, records in self._router(batches):
            if shard not in self._shards:
                self._shards[shard] = DedupLogic(self._shared, None)
            self._shards[shard].on_batch([records])

    def _record(self, message: Message) -> Record:
        place = (message.topic, message.partition)
        fetched = _Fetched(message, self._offsets[place])
        self._offsets[place] += 1
        return record_of(fetched, self._rules[message.topic].decoder.header_needles)  # type: ignore[arg-type]


class _Fetched:
    """A message with the methods of confluent-kafka's `Message`."""

    def __init__(self, message: Message, offset: int) -> None:
        self._message = message
        self._offset = offset

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._message.key

    def value(self) -> bytes | None:
        return self._message.value

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return list(self._message.headers) or None


def _is_of_the_row(field: str) -> bool:
    return field == "text" or field.startswith("sql_")
