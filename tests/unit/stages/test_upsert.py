"""Lanes and their writer: order, back-pressure, the barrier, and what is written to the store."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from flows.sync import rules_of
from operators.changes.events import DeadLetter, Delete, KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.rows import Row
from operators.changes.shards import ALL_SHARDS, shard_of
from operators.changes.text_hash import text_hash
from operators.changes.version import make_version
from operators.errors import FatalError, RecordError, RetriableError
from operators.model.protocol import Piece
from operators.model.text_vectors import Texts
from operators.retry import RetryPolicy
from operators.stages import lanes as lanes_module
from operators.stages.lane_writer import Receipt, Writer
from operators.stages.lanes import Lane, Lanes
from operators.stages.upsert import UpsertLogic
from operators.stages.window import Window
from operators.state.version_map import VersionMap
from operators.store.protocol import CollectionSpec, entity_id
from operators.store.row_requests import Requests
from operators.telemetry import Telemetry
from operators.toast.completer import Completer
from operators.toast.key_changes import Moves
from tests.changes import PAIRS_TOPIC, TOPIC, LetterBox, contract
from tests.fakes import Applied, HashEmbedder, MemoryStore

# Timeout of waits: long enough for a slow machine; a passing test never waits for all of it.
SOON = 20.0


def row(number: int, lsn: int, text: str = "text", topic: str = TOPIC, **columns: Any) -> Row:
    return Row(
        row_key=RowKey(f"docs:{number}"),
        version=make_version(0, f"{lsn:016x}.{lsn:016x}", lsn),
        position=KafkaPosition(topic, 0, lsn),
        source_ts_ms=0,
        op="u",
        table="docs",
        text=text,
        text_hash=text_hash(text),
        columns={"kind": "page", "size": lsn, **columns} if topic == TOPIC else {},
    )


def delete(number: int, lsn: int) -> Delete:
    return Delete(
        RowKey(f"docs:{number}"),
        make_version(0, f"{lsn:016x}.{lsn:016x}", lsn),
        KafkaPosition(TOPIC, 0, lsn),
        0,
    )


def letter(offset: int) -> DeadLetter:
    return DeadLetter(KafkaPosition(TOPIC, 0, offset), "decode", "value", "no", "fix it")


def window(
    *winners: Row | Delete,
    dead: Sequence[DeadLetter] = (),
    unchanged: bool = False,
    shard: str = "000",
) -> Window:
    rows = {one.row_key: one for one in winners if isinstance(one, Row)}
    result = Window(
        rows=rows,
        deletes={one.row_key: one for one in winners if isinstance(one, Delete)},
        dead=list(dead),
        unchanged=set(rows) if unchanged else set(),
        versions=VersionMap(whole=True, horizon_s=1, now=0),
        contexts=(),
        shard=shard,
    )
    if not unchanged:
        for key, one in rows.items():
            vector = HashEmbedder().embed([one.text])[0]
            result.vectors[key] = (Piece(0, one.text, vector),)
    return result


# The writer.


class Bench:
    """A writer over a store in memory."""

    def __init__(
        self, store: MemoryStore | None = None, *, batch_rows: int = 100, for_s: float = 0.0
    ) -> None:
        self.store = store or MemoryStore()
        self.embedder = HashEmbedder()
        self.letters = LetterBox()
        telemetry = Telemetry()
        self.retry = RetryPolicy(for_s, telemetry, max_wait_s=0.0)
        tables = {table.topic: table for table in contract().tables}
        for table in tables.values():
            fields = {field: table.columns[c] for c, field in table.fields().items()}
            self.store.ensure(CollectionSpec(table.collection, fields, 8, "COSINE", "hash@1"))
        rules = rules_of(contract())
        self.writer = Writer(
            rules,
            Requests(self.store, self.retry, telemetry, batch_rows),
            Completer(rules, Moves(), self.retry),
            Texts(self.embedder, telemetry, {"docs": None, "pairs": None}, 0),
            self.embedder.model,
            self.letters,
            telemetry,
        )

    def write(self, *windows: Window) -> Receipt:
        return self.writer.write(windows)

    def texts(self, collection: str = "docs") -> dict[str, str]:
        return {one["id"]: one["text"] for one in self.store.scan(collection, ["text"])}

    def operations(self) -> list[tuple[str, str]]:
        return [(applied.op, applied.id) for applied in self.store.history]


def test_rows_are_written_with_every_field():
    bench = Bench()
    assert bench.write(window(row(1, 7, "a"), row(2, 8, "b"))) == Receipt(2, 0, 0)
    (one, _) = sorted(bench.store.scan("docs"), key=lambda found: found["id"])
    assert one == {
        "id": "docs:1#0",
        "text": "a",
        "kind": "page",
        "size": 7,
        "rv_table": "docs",
        "rv_row_key": "docs:1",
        "rv_version": make_version(0, f"{7:016x}.{7:016x}", 7),
        "rv_op": "u",
        "rv_source_ts_ms": 0,
        "rv_topic": TOPIC,
        "rv_partition": 0,
        "rv_offset": 7,
        "rv_model": "hash@1",
        "rv_text_hash": text_hash("a"),
        "rv_chunk": 0,
        "rv_chunks": 1,
        "rv_start": 0,
        "rv_spans": "",
        "rv_shard": int(shard_of("docs:1")),
    }
    ((_, vector),) = bench.store.vectors("docs", ["docs:1#0"]).values()
    assert np.array_equal(vector, HashEmbedder().embed(["a"])[0])


def test_each_table_goes_to_its_collection():
    bench = Bench()
    bench.write(window(row(1, 1, "a"), row(2, 2, "b", topic=PAIRS_TOPIC)))
    assert bench.texts("docs") == {"docs:1#0": "a"}
    assert bench.texts("pairs") == {"docs:2#0": "b"}


def test_nothing_to_write():
    bench = Bench()
    assert bench.write(window()) == Receipt(0, 0, 0)
    assert bench.store.history == []


def test_the_last_operation_of_a_row_wins():
    bench = Bench()
    receipt = bench.write(
        window(row(1, 1, "old"), row(2, 1, "goes"), row(3, 1, "back")),
        window(row(1, 2, "new"), delete(2, 2), delete(3, 2), delete(4, 2)),
        window(row(3, 3, "again")),
    )
    assert bench.texts() == {"docs:1#0": "new", "docs:3#0": "again"}
    assert receipt == Receipt(2, 2, 0)
    assert sorted(bench.operations()) == [
        ("delete", "docs:2#0"),
        ("delete", "docs:4#0"),
        ("upsert", "docs:1#0"),
        ("upsert", "docs:3#0"),
    ]


@pytest.mark.parametrize("last_is_delete", [True, False])
def test_a_row_that_comes_and_goes(last_is_delete):
    bench = Bench()
    bench.write(window(row(1, 1, "before")))
    windows = [
        window(row(1, 2 * i, f"v{i}")) if i % 2 else window(delete(1, 2 * i)) for i in range(1, 6)
    ]
    if last_is_delete:
        windows.append(window(delete(1, 99)))
    bench.write(*windows)
    assert bench.texts() == ({} if last_is_delete else {"docs:1#0": "v5"})
    assert len(bench.store.history) == 2


def test_requests_are_no_larger_than_the_contract_says():
    sizes: list[tuple[str, int]] = []

    class Counting(MemoryStore):
        def upsert(self, collection: str, entities: Any) -> None:
            sizes.append(("upsert", len(entities)))
            super().upsert(collection, entities)

        def delete(self, collection: str, ids: Any) -> None:
            sizes.append(("delete", len(ids)))
            super().delete(collection, ids)

    bench = Bench(Counting(), batch_rows=3)
    bench.write(window(*[row(i, 1) for i in range(7)], *[delete(i, 1) for i in range(10, 15)]))
    assert sizes == [("delete", 3), ("delete", 2), ("upsert", 3), ("upsert", 3), ("upsert", 1)]


# Unchanged texts.


def test_an_unchanged_text_keeps_its_vector_and_gets_the_new_columns():
    bench = Bench()
    bench.write(window(row(1, 1, "same")))
    # A vector that the model never returns, so that a vector read back from the store is recognised.
    (entity,) = bench.store._collections["docs"].rows.values()
    entity["vector"] = np.eye(8, dtype=np.float32)[0]
    bench.write(window(row(1, 5, "same"), unchanged=True))
    assert bench.embedder.calls == []
    (after,) = bench.store.scan("docs", ["size", "rv_version"])
    assert (after["size"], after["rv_version"]) == (5, make_version(0, f"{5:016x}.{5:016x}", 5))
    ((_, vector),) = bench.store.vectors("docs", ["docs:1#0"]).values()
    assert np.array_equal(vector, np.eye(8, dtype=np.float32)[0])


def test_where_the_store_holds_another_text_after_all_it_is_embedded():
    bench = Bench()
    bench.write(window(row(1, 1, "old"), row(2, 1, "same")))
    bench.write(window(row(1, 5, "new"), row(2, 5, "same"), row(3, 5, "none"), unchanged=True))
    assert bench.embedder.calls == [2]
    for id_, text in bench.texts().items():
        ((digest, vector),) = bench.store.vectors("docs", [id_]).values()
        assert digest == text_hash(text)
        assert np.array_equal(vector, HashEmbedder().embed([text])[0])


def test_a_text_taken_for_unchanged_does_not_get_the_vector_of_the_one_that_it_replaces():
    bench = Bench()
    bench.write(window(row(1, 1, "a")))
    bench.write(window(row(1, 2, "b")), window(row(1, 3, "a"), unchanged=True))
    assert bench.texts() == {"docs:1#0": "a"}
    _, vector = bench.store.vectors("docs", ["docs:1#0"])["docs:1#0"]
    assert np.array_equal(vector, HashEmbedder().embed(["a"])[0])


def test_nothing_is_read_back_without_need():
    bench = Bench()
    bench.store.fail_next(FatalError(subject="store", cause="was asked"), "vectors")
    assert bench.write(window(row(1, 1))).rows == 1


# What the store refuses.


class Picky(MemoryStore):
    """Refuses each call with certain entities in it."""

    def __init__(self, *refused: int) -> None:
        super().__init__()
        self.refused = {entity_id(RowKey(f"docs:{number}")) for number in refused}
        self.calls = 0

    def upsert(self, collection: str, entities: Any) -> None:
        self.calls += 1
        if any(entity.id in self.refused for entity in entities):
            raise RecordError(subject="entity", cause="refused", hint="repair it")
        super().upsert(collection, entities)


@pytest.mark.parametrize("refused", [(0,), (31,), (63,), (3, 4), (0, 17, 63), tuple(range(64))])
def test_bisection_finds_what_is_refused_and_writes_the_rest(refused):
    store = Picky(*refused)
    bench = Bench(store)
    receipt = bench.write(window(*[row(i, i + 1) for i in range(64)]))
    assert bench.texts().keys() == {f"docs:{i}#0" for i in range(64) if i not in refused}
    assert receipt == Receipt(64 - len(refused), 0, len(refused))
    assert {one.position.offset - 1 for one in bench.letters.letters} == set(refused)
    assert {(one.stage, one.cause, one.hint) for one in bench.letters.letters} == {
        ("upsert", "refused", "repair it")
    }
    if len(refused) == 1:
        assert store.calls <= 2 * 6 + 1


def test_a_refused_row_leaves_what_was_there():
    bench = Bench(Picky())
    bench.write(window(row(1, 1, "old")))
    assert isinstance(bench.store, Picky)
    bench.store.refused = {"docs:1#0"}
    bench.write(window(row(1, 2, "new")))
    assert bench.texts() == {"docs:1#0": "old"}


def test_dead_letters_are_sent_before_the_write_returns():
    bench = Bench(Picky(2))
    receipt = bench.write(
        window(row(1, 1), dead=[letter(7)]), window(row(2, 2), dead=[letter(8), letter(9)])
    )
    assert receipt == Receipt(1, 0, 4)
    assert sorted(one.position.offset for one in bench.letters.letters) == [2, 7, 8, 9]


def test_dead_letters_that_cannot_be_sent_fail_the_write():
    bench = Bench()

    def send(letters: Any) -> None:
        raise RetriableError(subject="dead-letter topic", cause="is away")

    bench.letters.send = send  # type: ignore[method-assign]
    with pytest.raises(FatalError, match="dead-letter topic: is away; gave up"):
        bench.write(window(dead=[letter(1)]))


def test_what_is_not_a_matter_of_rows_is_not_bisected():
    bench = Bench()
    bench.store.fail_next(FatalError(subject="collection", cause="is gone"), "upsert")
    with pytest.raises(FatalError, match="collection: is gone"):
        bench.write(window(row(1, 1), row(2, 2)))
    assert bench.letters.letters == []


# A store that is down.

DOWN = RetriableError(subject="milvus", cause="is down", hint="Bring it up")


@pytest.mark.parametrize("operation", ["upsert", "delete", "vectors"])
@pytest.mark.parametrize("applied", [False, True])
def test_a_store_that_comes_back(operation, applied):
    bench = Bench(for_s=SOON)
    bench.write(window(row(2, 1, "same"), row(3, 1)))
    for _ in range(3):
        bench.store.fail_next(DOWN, operation, applied=applied)
    bench.write(window(row(1, 2), delete(3, 2)), window(row(2, 2, "same"), unchanged=True))
    assert bench.texts().keys() == {"docs:1#0", "docs:2#0"}


@pytest.mark.parametrize("operation", ["upsert", "delete", "vectors"])
def test_a_store_that_stays_away(operation):
    bench = Bench()
    bench.store.fail_next(DOWN, operation)
    with pytest.raises(FatalError, match=r"milvus: is down; gave up after 0 s\. Bring it up"):
        bench.write(window(row(1, 2), delete(3, 2)), window(row(2, 2), unchanged=True))


# Lanes.


class Gate:
    """A write function that blocks until the test releases it, and keeps its arguments."""

    def __init__(self) -> None:
        self.calls: list[list[Window]] = []
        self.error: Exception | None = None
        self.entered = threading.Semaphore(0)
        self._let = threading.Semaphore(0)

    def __call__(self, windows: Sequence[Window]) -> Receipt:
        self.calls.append(list(windows))
        self.entered.release()
        assert self._let.acquire(timeout=SOON)
        if self.error is not None:
            raise self.error
        return Receipt(sum(len(one.rows) for one in windows), 0, 0)

    def let(self, count: int = 1) -> None:
        self._let.release(count)

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=SOON)


@contextmanager
def lane_of(write: Callable[[Sequence[Window]], Receipt]) -> Iterator[Lane]:
    lane = Lane("test-lane", write)
    try:
        yield lane
    finally:
        lane.close()


def started(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run a call on a thread; its result, or the error it raised, is appended to the list."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


def joined(thread: threading.Thread) -> None:
    thread.join(SOON)
    assert not thread.is_alive()


def test_windows_are_written_in_order_and_those_that_wait_together():
    gate = Gate()
    windows = [window(row(i, i + 1)) for i in range(5)]
    with lane_of(gate) as lane:
        first = lane.submit(windows[0])
        gate.wait_entered()
        tickets = [lane.submit(one) for one in windows[1:]]
        assert [first, *tickets] == [1, 2, 3, 4, 5]
        gate.let(2)
        lane.wait("000", tickets[-1])
        assert [[id(w) for w in call] for call in gate.calls] == [
            [id(windows[0])],
            [id(w) for w in windows[1:]],
        ]
        assert lane.receipts() == [Receipt(1, 0, 0), Receipt(4, 0, 0)]
        assert lane.receipts() == []


def test_what_waited_for_another_lane_is_written_before_what_came_after_it():
    waiting, newer = window(row(1, 1)), window(row(1, 2))
    calls: list[list[Window]] = []
    entered, submitted = threading.Event(), threading.Event()

    def write(windows: Sequence[Window]) -> Receipt:
        calls.append(list(windows))
        if len(calls) > 1:
            return Receipt(len(windows), 0, 0)
        entered.set()
        assert submitted.wait(SOON)
        return Receipt(0, 0, 0, (waiting,))

    with lane_of(write) as lane:
        lane.submit(waiting)
        assert entered.wait(SOON)
        ticket = lane.submit(newer)
        submitted.set()
        lane.wait("000", ticket)
    assert [[id(w) for w in call] for call in calls] == [[id(waiting)], [id(waiting), id(newer)]]


def test_a_wait_returns_when_its_own_window_is_written_and_not_before():
    gate = Gate()
    with lane_of(gate) as lane:
        first = lane.submit(window(row(1, 1)))
        gate.wait_entered()
        second = lane.submit(window(row(2, 2)))
        waiting, results = started(lambda: lane.wait("000", second))
        gate.let()
        lane.wait("000", first)
        gate.wait_entered()
        assert waiting.is_alive()
        assert results == []
        gate.let()
        joined(waiting)
        assert results == [None]


def test_a_wait_for_one_shard_is_not_ended_by_another():
    gate = Gate()
    with lane_of(gate) as lane:
        lane.submit(window(row(1, 1), shard="000"))
        gate.wait_entered()
        for number in range(3):
            lane.submit(window(row(2, number + 1), shard="001"))
        second = lane.submit(window(row(1, 2), shard="000"))
        waiting, results = started(lambda: lane.wait("000", second))
        gate.let()
        lane.wait("000", 1)
        gate.wait_entered()
        assert waiting.is_alive()
        assert results == []
        gate.let()
        joined(waiting)
        assert results == [None]


def test_a_full_lane_lets_the_worker_wait(monkeypatch):
    monkeypatch.setattr(lanes_module, "MAX_QUEUED_ROWS", 3)
    gate = Gate()
    with lane_of(gate) as lane:
        lane.submit(window(row(1, 1), row(2, 1)))
        gate.wait_entered()
        # Rows that are being written still count.
        lane.submit(window(row(3, 1), delete(4, 1), dead=[letter(1)]))
        submitting, results = started(lambda: lane.submit(window(row(5, 1))))
        submitting.join(0.05)
        assert submitting.is_alive()
        assert results == []
        gate.let()
        gate.wait_entered()
        submitting.join(0.05)
        # Three rows of the second window are being written, so the lane is still full.
        assert submitting.is_alive()
        gate.let()
        joined(submitting)
        assert results == [3]
        gate.let()
        lane.wait("000", 3)


def test_an_error_comes_up_at_every_call():
    gate = Gate()
    gate.error = FatalError(subject="milvus", cause="is gone")
    with lane_of(gate) as lane:
        ticket = lane.submit(window(row(1, 1)))
        gate.let()
        for call in (
            lambda: lane.wait("000", ticket),
            lambda: lane.submit(window(row(2, 2))),
            lane.receipts,
            lambda: lane.wait("000", ticket),
        ):
            with pytest.raises(FatalError, match="milvus: is gone"):
                call()
    assert len(gate.calls) == 1


@pytest.mark.parametrize("error", [MemoryError("no room"), SystemExit(1), ValueError("a bug")])
def test_a_lane_that_fails_outside_of_a_write_is_told_as_well(error, monkeypatch):
    """Otherwise a checkpoint would wait for it for ever, while the lease is renewed."""

    def fail(lane: Lane) -> None:
        raise error

    monkeypatch.setattr(Lane, "_take_embedded", fail)
    with lane_of(Gate()) as lane:
        ticket = lane.submit(window(row(1, 1)))
        with pytest.raises(type(error)):
            lane.wait("000", ticket)


def test_an_error_ends_the_waiting(monkeypatch):
    monkeypatch.setattr(lanes_module, "MAX_QUEUED_ROWS", 1)
    gate = Gate()
    gate.error = FatalError(subject="milvus", cause="is gone")
    with lane_of(gate) as lane:
        ticket = lane.submit(window(row(1, 1)))
        gate.wait_entered()
        submitting, submitted = started(lambda: lane.submit(window(row(2, 2))))
        waiting, waited = started(lambda: lane.wait("000", ticket + 1))
        gate.let()
        joined(submitting)
        joined(waiting)
        assert [str(error) for error in submitted + waited] == ["milvus: is gone."] * 2


def test_after_an_error_nothing_more_is_written():
    gate = Gate()
    gate.error = FatalError(subject="milvus", cause="is gone")
    with lane_of(gate) as lane:
        lane.submit(window(row(1, 1)))
        gate.wait_entered()
        lane.submit(window(row(2, 2)))
        gate.let(2)
        with pytest.raises(FatalError):
            lane.wait("000", 2)
    assert len(gate.calls) == 1


def test_closing_ends_after_what_is_under_way_and_writes_no_more():
    gate = Gate()
    lane = Lane("test-lane", gate)
    lane.submit(window(row(1, 1)))
    gate.wait_entered()
    lane.submit(window(row(2, 2)))
    closing, _ = started(lane.close)
    closing.join(0.05)
    assert closing.is_alive()
    gate.let()
    joined(closing)
    assert len(gate.calls) == 1


def test_closing_an_idle_lane():
    lane = Lane("test-lane", Gate())
    lane.close()
    lane.close()
    assert not lane._thread.is_alive()


# The upsert step: window numbers of a shard, and the barrier.


class Recording:
    """A `Writer` that records which thread wrote what."""

    def __init__(self) -> None:
        self.gate: Gate | None = None
        self.threads: dict[str, set[str]] = {}

    def write(self, windows: Sequence[Window]) -> Receipt:
        for one in windows:
            self.threads.setdefault(one.shard, set()).add(threading.current_thread().name)
        return self.gate(windows) if self.gate else Receipt(len(windows), 0, 0)


@pytest.fixture
def writer() -> Recording:
    return Recording()


@pytest.fixture
def lanes(writer: Recording) -> Iterator[Lanes]:
    lanes = Lanes(writer, 3)  # type: ignore[arg-type]
    yield lanes
    lanes.close()


def test_a_shard_always_has_the_same_lane(writer, lanes):
    for _ in range(3):
        for shard in ALL_SHARDS[:12]:
            UpsertLogic(lanes).on_batch([window(row(1, 1), shard=shard)])
    for shard in ALL_SHARDS[:12]:
        assert lanes.of(shard) is lanes.of(shard)
        lanes.of(shard).wait(shard, lanes.of(shard)._submitted[shard])
    assert all(len(threads) == 1 for threads in writer.threads.values())
    assert len(set().union(*writer.threads.values())) == 3


def test_a_checkpoint_waits_for_the_shards_own_windows(writer, lanes):
    writer.gate = gate = Gate()
    mine, other = UpsertLogic(lanes), UpsertLogic(lanes)
    mine.on_batch([window(row(1, 1), shard="000")])
    gate.wait_entered()
    other.on_batch([window(row(2, 2), shard="001")])
    gate.wait_entered()
    saving, results = started(mine.snapshot)
    saving.join(0.05)
    assert saving.is_alive()
    gate.let(2)
    joined(saving)
    assert results == [()]
    assert other.snapshot() == ()


def test_a_shard_that_wrote_nothing_waits_for_nothing(writer, lanes):
    writer.gate = gate = Gate()
    UpsertLogic(lanes).on_batch([window(row(1, 1), shard="000")])
    assert UpsertLogic(lanes).snapshot() == ()
    assert UpsertLogic(lanes).on_eof() == ([], False)
    gate.let()


def test_a_checkpoint_fails_with_what_failed(writer, lanes):
    writer.gate = gate = Gate()
    gate.error = FatalError(subject="milvus", cause="is gone")
    logic = UpsertLogic(lanes)
    logic.on_batch([window(row(1, 1))])
    gate.let()
    for call in (logic.snapshot, logic.on_eof, lambda: logic.on_batch([window(row(1, 2))])):
        with pytest.raises(FatalError, match="milvus: is gone"):
            call()


def test_the_end_of_the_stream_waits_and_tells_the_receipts(writer, lanes):
    logic = UpsertLogic(lanes)
    emitted, _ = logic.on_batch([window(row(1, 1)), window(row(2, 2))])
    last, done = logic.on_eof()
    assert sum(receipt.rows for receipt in [*emitted, *last]) == 2
    assert not done
    assert logic.notify_at() is None


def test_through_lanes_a_row_ends_as_its_last_window():
    bench = Bench()
    lanes = Lanes(bench.writer, 4)
    logics = {shard: UpsertLogic(lanes) for shard in ALL_SHARDS[:8]}
    try:
        for lsn in range(1, 60):
            for number, (shard, logic) in enumerate(logics.items()):
                gone = lsn % 5 == 0 or (lsn == 59 and number % 2)
                change = delete(number, lsn) if gone else row(number, lsn, f"v{lsn}")
                logic.on_batch([window(change, shard=shard)])
        for logic in logics.values():
            logic.snapshot()
    finally:
        lanes.close()
    assert bench.texts() == {f"docs:{number}#0": "v59" for number in (0, 2, 4, 6)}
    seen: dict[str, str] = {}
    for applied in bench.store.history:
        assert isinstance(applied, Applied)
        if applied.op == "upsert":
            assert applied.version > seen.get(applied.id, "")
            seen[applied.id] = applied.version
