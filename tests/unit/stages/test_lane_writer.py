"""How a lane writes its windows: chunks, TRUNCATEs, partial rows, key changes."""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flows.sync import collection_specs, rules_of
from operators.changes.events import Delete, KafkaPosition, Truncate, Upsert
from operators.changes.row_key import RowKey
from operators.changes.rows import Follows, Move, PartialRow, Row
from operators.changes.shards import shard_of
from operators.changes.version import NO_POSITION, Version, make_version
from operators.contract.table import MAX_VARCHAR_BYTES, UNAVAILABLE
from operators.errors import FatalError, RecordError
from operators.model.text_vectors import Texts
from operators.retry import RetryPolicy
from operators.stages.embed import EmbedStep
from operators.stages.lane_writer import Receipt, Writer
from operators.stages.lanes import Lanes
from operators.stages.upsert import UpsertLogic
from operators.stages.window import Window
from operators.state.version_map import VersionMap
from operators.store.protocol import Entity
from operators.store.row_requests import Requests
from operators.telemetry import Telemetry
from operators.toast.completer import Completer
from operators.toast.key_changes import Moves
from tests.changes import TOPIC, LetterBox, contract, doc, table
from tests.fakes import HashEmbedder, MemoryStore

CUT: dict[str, Any] = {"chunks": {"max_tokens": 8, "overlap_tokens": 2}}
SOON = 20.0
"""Timeout of waits: long enough for a slow machine; a passing test never waits for all of it."""


def words(count: int, word: str = "w") -> str:
    return " ".join(f"{word}{number}" for number in range(count))


def version(lsn: int) -> Version:
    return make_version(0, f"{lsn:016x}.{lsn:016x}", lsn)


def position(lsn: int) -> KafkaPosition:
    return KafkaPosition(TOPIC, 0, lsn)


def key(number: int) -> RowKey:
    return RowKey(f"docs:{number}")


def delete(number: int, lsn: int, *, moved: bool = False) -> Delete:
    return Delete(key(number), version(lsn), position(lsn), 0, moved=moved)


def truncate(lsn: int) -> Truncate:
    return Truncate("docs", version(lsn), position(lsn), 0)


class Refusing(MemoryStore):
    """Refuses texts with a certain word, and records the TRUNCATE calls."""

    def __init__(self) -> None:
        super().__init__()
        self.emptied: list[tuple[Version, Collection[int] | None]] = []
        self.read: list[str] = []

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        if any("poison" in entity.text for entity in entities):
            raise RecordError(subject="entity", cause="refused")
        super().upsert(collection, entities)

    def delete_older(
        self,
        collection: str,
        table: str,
        version: Version,
        shards: Collection[int] | None = None,
    ) -> None:
        self.emptied.append((version, shards))
        super().delete_older(collection, table, version, shards)

    def entities(self, collection: str, ids: Sequence[str]) -> dict[str, Entity]:
        self.read += ids
        return super().entities(collection, ids)


class Bench:
    """A writer over a store in memory, for the first table with some settings changed."""

    def __init__(self, store: MemoryStore | None = None, **changed: Any) -> None:
        self.store = store or Refusing()
        self.embedder = HashEmbedder()
        self.letters = LetterBox()
        self.moves = Moves()
        self.reader = InMemoryMetricReader()
        telemetry = Telemetry(meter_provider=MeterProvider(metric_readers=[self.reader]))
        section = table(**changed)
        tables = contract().model_copy(update={"tables": (section,)})
        (spec,) = collection_specs(tables, self.embedder)
        self.store.ensure(spec)
        self.rules = rules_of(tables)
        self.versions = VersionMap(whole=True, horizon_s=100, now=0)
        retry = RetryPolicy(0.0, telemetry)
        texts = Texts(self.embedder, telemetry, {"docs": section.chunks}, 0)
        self.embed = EmbedStep(self.embedder, texts, telemetry)
        self.writer = Writer(
            self.rules,
            Requests(self.store, retry, telemetry, batch_rows=3),
            Completer(self.rules, self.moves, retry),
            texts,
            self.embedder.model,
            self.letters,
            telemetry,
        )

    def row(self, number: int, lsn: int, text: str = "text", **columns: Any) -> Row:
        rendered = self._rendered(number, lsn, doc=text, **columns)
        assert isinstance(rendered, Row)
        return rendered

    def partial(
        self,
        number: int,
        lsn: int,
        after: int | Follows = Follows.UNKNOWN,
        *,
        old: int | None = None,
        **columns: Any,
    ) -> PartialRow:
        rendered = self._rendered(number, lsn, old=old, doc=UNAVAILABLE, **columns)
        assert isinstance(rendered, PartialRow)
        if old is None:
            follows = version(after) if isinstance(after, int) else after
            rendered = rendered._replace(follows=follows)
        return rendered

    def _rendered(self, number: int, lsn: int, old: int | None = None, **columns: Any) -> Any:
        columns = {**doc(number), "size": lsn, **columns}
        old_key = None if old is None else key(old)
        event = Upsert(key(number), version(lsn), position(lsn), 0, "u", columns, old_key=old_key)
        return self.rules[TOPIC].renderer.render(event)

    def window(
        self,
        *winners: Row | PartialRow | Delete,
        truncates: Sequence[Truncate] = (),
        moves: Sequence[Move] = (),
        shard: str = "000",
    ) -> Window:
        """A window as the embed step passes it on."""
        window = Window(
            {each.row_key: each for each in winners if not isinstance(each, Delete)},
            {each.row_key: each for each in winners if isinstance(each, Delete)},
            [],
            set(),
            self.versions,
            (),
            list(truncates),
            list(moves),
            shard=shard,
        )
        for _, part in self.embed([(shard, replace(window))]):
            window.vectors.update(part.vectors)
        return window

    def write(self, *winners: Row | PartialRow | Delete, **more: Any) -> Receipt:
        return self.writer.write([self.window(*winners, **more)])

    def texts(self) -> dict[str, str]:
        return {each["id"]: each["text"] for each in self.store.scan("docs", ["text"])}

    def refused(self) -> list[int]:
        """Offsets of the dead letters."""
        return sorted(letter.position.offset for letter in self.letters.letters)

    def counted(self, metric: str) -> dict[str, int]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            str(next(reversed(dict(point.attributes or {}).values()))): int(point.value)  # type: ignore
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for each in scope.metrics
            if each.name == metric
            for point in each.data.data_points
        }


# Chunks.


@pytest.mark.parametrize("lengths", [(1, 30, 1), (30, 12, 30), (12, 12, 40)])
def test_a_row_that_grows_and_shrinks_has_the_chunks_of_its_text(lengths: Sequence[int]) -> None:
    bench = Bench(**CUT)
    for lsn, length in enumerate(lengths, 1):
        text = words(length, f"v{lsn}-")
        bench.write(bench.row(1, lsn, text), bench.row(2, lsn))
        whole = f"doc 1\n{text}"
        ranges = HashEmbedder().chunks(whole, 8, 2)
        found = {id_: t for id_, t in bench.texts().items() if id_.startswith("docs:1#")}
        assert found == {f"docs:1#{i}": whole[a:b] for i, (a, b) in enumerate(ranges)}
    bench.write(delete(1, 9))
    assert bench.texts() == {"docs:2#0": "doc 2\ntext"}


def test_unchanged_chunks_are_read_back_and_not_embedded() -> None:
    bench = Bench(**CUT)
    bench.write(bench.row(1, 1, words(30)))
    window = bench.window(bench.row(1, 2, words(30)))
    before = sum(bench.embedder.calls)
    window.vectors.clear()
    window.unchanged.add(key(1))
    bench.writer.write([window])
    assert sum(bench.embedder.calls) == before
    assert {each["size"] for each in bench.store.scan("docs")} == {2}
    assert bench.counted("rowvec.texts")["unchanged"] == 1


def test_a_row_that_a_crash_has_torn_is_not_taken_as_unchanged() -> None:
    bench = Bench(**CUT)
    bench.write(bench.row(1, 1, words(30)))
    whole = bench.texts()
    bench.store.delete("docs", ["docs:1#2"])
    window = bench.window(bench.row(1, 2, words(30)))
    window.vectors.clear()
    window.unchanged.add(key(1))
    bench.writer.write([window])
    assert bench.texts() == whole


def test_a_left_out_text_of_many_chunks_is_put_together_again() -> None:
    bench = Bench(**CUT)
    bench.write(bench.row(1, 1, words(30)))
    before, whole = sum(bench.embedder.calls), bench.texts()
    # The text is unchanged, so the model is not called.
    bench.write(bench.partial(1, 2, after=1, kind="leaf"))
    assert (bench.texts(), sum(bench.embedder.calls)) == (whole, before)
    assert {each["kind"] for each in bench.store.scan("docs")} == {"leaf"}
    bench.write(bench.partial(1, 3, after=2, name="renamed"))
    text = "".join(bench.texts()[f"docs:1#{i}"] for i in range(1))
    assert text.startswith("renamed\nw0 w1")
    assert bench.refused() == []


def test_a_left_out_text_is_not_put_together_from_what_a_crash_has_left() -> None:
    bench = Bench(**CUT)
    bench.write(bench.row(1, 1, words(30)))
    bench.store.delete("docs", ["docs:1#2"])
    bench.write(bench.partial(1, 2, after=1))
    assert bench.refused() == [2]


# TRUNCATE.


def test_a_truncate_empties_the_shards_that_have_come_to_it() -> None:
    bench = Bench()
    bench.write(*[bench.row(number, 1) for number in range(20)])
    mine = shard_of(key(3))
    bench.write(truncates=[truncate(5)], shard=mine)
    assert bench.store.emptied == [(version(5), [int(mine)])]  # type: ignore[attr-defined]
    others = {f"docs:{n}#0" for n in range(20) if shard_of(key(n)) != mine}
    assert bench.texts().keys() == others


def test_each_shard_is_emptied_as_far_as_it_has_come() -> None:
    bench = Bench()
    one, two = shard_of(key(1)), shard_of(key(2))
    bench.write(bench.row(1, 3), bench.row(2, 3))
    bench.writer.write(
        [
            bench.window(truncates=[truncate(5)], shard=two),
            bench.window(truncates=[truncate(2)], shard=one),
        ]
    )
    # The row of the first shard is newer than the TRUNCATE, so it stays.
    assert set(bench.texts()) == {"docs:1#0"}


def test_a_truncate_comes_before_the_rows_of_its_window_and_after_those_before_it() -> None:
    bench = Bench()
    shard = shard_of(key(1))
    bench.write(bench.row(1, 1, "stored"))
    bench.writer.write(
        [
            bench.window(bench.row(1, 2, "on its way"), shard=shard),
            bench.window(truncates=[truncate(3)], shard=shard),
        ]
    )
    assert bench.texts() == {}
    bench.write(bench.row(1, 5, "after"), truncates=[truncate(4)], shard=shard)
    assert bench.texts() == {"docs:1#0": "doc 1\nafter"}


def test_a_truncate_takes_nothing_of_a_shard_that_has_not_come_to_it() -> None:
    bench = Bench()
    one, two = shard_of(key(1)), shard_of(key(2))
    emptied = bench.window(truncates=[truncate(2)], shard=two)
    bench.writer.write([bench.window(bench.row(1, 1, "on its way"), shard=one), emptied])
    assert bench.texts() == {"docs:1#0": "doc 1\non its way"}


def test_a_row_without_a_position_is_not_known_to_be_older_than_a_truncate() -> None:
    bench = Bench()
    shard = shard_of(key(1))
    unpositioned = bench.row(1, 1)._replace(version=make_version(0, NO_POSITION, 1))
    bench.writer.write(
        [
            bench.window(unpositioned, shard=shard),
            bench.window(truncates=[truncate(3)], shard=shard),
        ]
    )
    assert set(bench.texts()) == {"docs:1#0"}


def test_a_truncate_that_all_shards_have_come_to_is_counted_once() -> None:
    bench = Bench()
    for number in range(256):
        bench.write(truncates=[truncate(5)], shard=f"{number:03d}")
    assert bench.counted("rowvec.rows.written") == {"t": 1}


# Partial rows.


def test_a_row_takes_what_it_lacks_from_the_one_before_in_the_same_queue() -> None:
    bench = Bench()
    bench.writer.write(
        [
            bench.window(bench.row(1, 1, "first")),
            bench.window(bench.partial(1, 2, after=1, name="second")),
            bench.window(bench.partial(1, 3, after=2, kind="leaf")),
        ]
    )
    assert bench.texts() == {"docs:1#0": "doc 1\nfirst"}
    assert bench.refused() == []
    assert [each.op for each in bench.store.history] == ["upsert"]


def test_a_row_that_follows_a_refused_one_is_refused_too() -> None:
    bench = Bench()
    bench.write(bench.row(1, 1, "old"))
    bench.write(bench.row(1, 2, "poison"))
    bench.write(bench.partial(1, 3, after=2))
    assert bench.texts() == {"docs:1#0": "doc 1\nold"}
    assert bench.refused() == [2, 3]
    bench.versions.apply_refusals()
    assert bench.versions.is_tainted(key(1), version(9))


def test_a_doubt_that_comes_late_does_not_outlive_a_whole_row() -> None:
    bench = Bench()
    bench.versions.put(key(1), version(5), "whole")
    bench.write(bench.row(1, 2, "poison"))
    bench.versions.apply_refusals()
    assert not bench.versions.is_tainted(key(1), version(9))


@pytest.mark.parametrize("together", [False, True])
def test_a_refused_row_leaves_what_it_has_taken_the_place_of(together: bool) -> None:
    bench = Bench()
    bench.write(bench.row(1, 1, "first"), bench.row(2, 1))
    windows = [
        bench.window(bench.row(1, 2, "second"), delete(2, 2)),
        bench.window(bench.partial(1, 4, after=Follows.REFUSED), bench.partial(2, 4, after=2)),
    ]
    if together:
        receipt = bench.writer.write(windows)
        assert (receipt.rows, receipt.deletes, receipt.dead_letters) == (1, 1, 2)
    else:
        for window in windows:
            bench.writer.write([window])
    assert bench.texts() == {"docs:1#0": "doc 1\nsecond"}
    assert bench.refused() == [4, 4]


def test_what_a_refused_row_has_taken_the_place_of_does_not_undo_what_is_newer() -> None:
    # After a crash the store may hold newer versions than the records that are replayed.
    bench = Bench()
    bench.write(bench.row(1, 3, "newer"))
    bench.writer.write(
        [
            bench.window(bench.row(1, 2, "older")),
            bench.window(bench.partial(1, 4, after=Follows.REFUSED)),
        ]
    )
    assert bench.texts() == {"docs:1#0": "doc 1\nnewer"}


def test_below_a_refused_row_a_delete_without_a_position_is_not_lost() -> None:
    bench = Bench()
    bench.write(bench.row(1, 1))
    alone = make_version(0, NO_POSITION, 2)
    tombstone = Delete(key(1), alone, position(2), 0, unpositioned=True)
    bench.writer.write(
        [bench.window(tombstone), bench.window(bench.partial(1, 3, after=Follows.REFUSED))]
    )
    assert bench.texts() == {}


def test_a_truncate_takes_what_is_below_a_newer_row() -> None:
    bench = Bench()
    shard = shard_of(key(1))
    bench.writer.write(
        [
            bench.window(bench.row(1, 1), shard=shard),
            bench.window(bench.partial(1, 3, after=Follows.REFUSED), shard=shard),
            bench.window(truncates=[truncate(2)], shard=shard),
        ]
    )
    assert (bench.texts(), bench.refused()) == ({}, [3])


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_a_refused_row_leaves_one_that_waits_in_its_place(told: bool, together: bool) -> None:
    bench = Bench()
    bench.write(bench.row(1, 1, "moves"), bench.row(2, 1))
    moves = moving(bench, 1, 3, after=1 if told else 2)
    windows = [
        bench.window(delete(2, 2)),
        bench.window(bench.partial(2, 3, old=1)),
        bench.window(bench.partial(2, 5, after=Follows.REFUSED)),
    ]
    receipt = Receipt(0, 0, 0)
    for each in [windows] if together else [[window] for window in windows]:
        receipt = bench.writer.write([*receipt.later, *each])
    assert set(bench.texts()) == {"docs:1#0"}
    assert (len(receipt.later), bench.refused()) == (1, [5])
    bench.writer.write([moves])
    assert bench.writer.write(receipt.later).later == ()
    assert bench.texts() == ({"docs:2#0": "doc 2\nmoves"} if told else {})
    assert bench.refused() == ([5] if told else [3, 5])


def test_rows_that_wait_with_the_same_key_keep_their_order() -> None:
    bench = Bench()
    bench.write(bench.row(1, 1, "first"), bench.row(2, 1, "second"))
    deletes = [moving(bench, 1, 2), moving(bench, 2, 4)]
    receipt = bench.writer.write(
        [bench.window(bench.partial(3, 2, old=1)), bench.window(bench.partial(3, 4, old=2))]
    )
    for gone in deletes:
        receipt = bench.writer.write([*receipt.later, gone])
    assert bench.writer.write(receipt.later).later == ()
    assert bench.texts() == {"docs:3#0": "doc 3\nsecond"}
    assert bench.refused() == []


def test_a_row_whose_parts_are_too_long_together_is_refused_and_nothing_else() -> None:
    bench = Bench()
    half = "x" * (MAX_VARCHAR_BYTES * 2 // 3)
    bench.write(bench.row(1, 1, half))
    bench.writer.write(
        [
            bench.window(bench.row(2, 1, half)),
            bench.window(
                bench.partial(1, 2, after=1, name=half),
                bench.partial(2, 2, after=1, name=half),
                bench.row(3, 2),
            ),
        ]
    )
    assert bench.refused() == [2, 2]
    assert set(bench.texts()) == {"docs:1#0", "docs:2#0", "docs:3#0"}


# Key changes.


def moving(bench: Bench, old: int, lsn: int, after: int | None = None) -> Window:
    """A window with the delete of a key that was changed."""
    gone = delete(old, lsn, moved=True)
    bench.moves.dispatch(gone.row_key, gone.version)
    follows = Follows.UNKNOWN if after is None else version(after)
    return bench.window(gone, moves=[Move(gone, None, follows)], shard=shard_of(gone.row_key))


def test_a_row_that_waits_for_another_lane_is_written_later_and_holds_up_no_other() -> None:
    bench = Bench()
    bench.write(bench.row(1, 1, "moves"))
    gone = moving(bench, 1, 2)
    receipt = bench.write(bench.partial(2, 2, old=1), bench.row(3, 2))
    assert (receipt.rows, len(receipt.later), bench.refused()) == (1, 1, [])
    assert set(bench.texts()) == {"docs:1#0", "docs:3#0"}
    bench.writer.write([gone])
    receipt = bench.writer.write(receipt.later)
    assert (receipt.rows, receipt.later) == (1, ())
    assert bench.texts()["docs:2#0"] == "doc 2\nmoves"


def test_a_row_that_waits_is_replaced_by_a_newer_one() -> None:
    bench = Bench()
    moving(bench, 1, 2)
    receipt = bench.write(bench.partial(2, 2, old=1))
    receipt = bench.writer.write([*receipt.later, bench.window(bench.row(2, 3, "newer"))])
    assert receipt.later == ()
    assert bench.texts() == {"docs:2#0": "doc 2\nnewer"}


def test_a_row_is_read_before_it_is_overwritten_by_the_next_with_its_key() -> None:
    bench = Bench()
    bench.write(bench.row(1, 1, "moves"))
    gone = moving(bench, 1, 2)
    del gone.deletes[key(1)]
    bench.writer.write([gone, bench.window(bench.row(1, 3, "comes"))])
    bench.write(bench.partial(2, 2, old=1))
    assert bench.texts() == {"docs:1#0": "doc 1\ncomes", "docs:2#0": "doc 2\nmoves"}


def test_what_was_refused_under_the_old_key_is_not_replaced_by_what_was_before() -> None:
    bench = Bench()
    bench.write(bench.row(1, 1, "old"))
    bench.write(bench.row(1, 2, "poison"))
    bench.writer.write([moving(bench, 1, 3, after=2)])
    bench.write(bench.partial(2, 3, old=1))
    assert bench.texts() == {}
    assert bench.refused() == [2, 3]


@contextmanager
def lanes_of(bench: Bench, count: int) -> Iterator[Lanes]:
    lanes = Lanes(bench.writer, count)
    try:
        yield lanes
    finally:
        lanes.close()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("first", ["delete", "row"])
def test_lanes_wait_for_one_another_in_any_order(count: int, first: str) -> None:
    bench = Bench()
    numbers = range(40)
    bench.write(*[bench.row(number, 1, f"text {number}") for number in numbers])
    deletes = [moving(bench, number, 2) for number in numbers]
    rows = [
        bench.window(bench.partial(100 + n, 2, old=n), shard=shard_of(key(100 + n)))
        for n in numbers
    ]
    windows = [*deletes, *rows] if first == "delete" else [*rows, *deletes]
    logics: dict[str, UpsertLogic] = {}
    with lanes_of(bench, count) as lanes:
        for window in windows:
            logics.setdefault(window.shard, UpsertLogic(lanes)).on_batch([window])
        for logic in logics.values():
            logic.snapshot()
    assert bench.texts() == {f"docs:{100 + n}#0": f"doc {100 + n}\ntext {n}" for n in numbers}
    assert bench.refused() == []


def test_a_checkpoint_waits_for_a_row_that_waits() -> None:
    bench = Bench()
    bench.write(bench.row(1, 1, "moves"))
    gone = moving(bench, 1, 2)
    with lanes_of(bench, 1) as lanes:
        waits, tells = UpsertLogic(lanes), UpsertLogic(lanes)
        waits.on_batch([bench.window(bench.partial(2, 2, old=1), shard="000")])
        saving = threading.Thread(target=waits.snapshot, daemon=True)
        saving.start()
        saving.join(0.05)
        assert saving.is_alive()
        assert "docs:2#0" not in bench.texts()
        tells.on_batch([gone])
        saving.join(SOON)
        assert not saving.is_alive()
        assert bench.texts() == {"docs:2#0": "doc 2\nmoves"}


def test_a_lane_that_is_slow_is_not_taken_for_one_that_knows_nothing() -> None:
    slow, other = threading.Event(), threading.Event()

    class Slow(Refusing):
        def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
            super().upsert(collection, entities)
            if any(entity.id == "docs:3#0" for entity in entities):
                other.set()

        def entities(self, collection: str, ids: Sequence[str]) -> dict[str, Entity]:
            if "docs:1#0" in ids:
                assert slow.wait(SOON)
            return super().entities(collection, ids)

    bench = Bench(Slow())
    bench.write(bench.row(1, 1, "moves"))
    gone = moving(bench, 1, 2)
    row = bench.window(bench.partial(2, 2, old=1))
    gone.shard, row.shard = "000", "001"
    with lanes_of(bench, 2) as lanes:
        tells, waits = UpsertLogic(lanes), UpsertLogic(lanes)
        tells.on_batch([gone])
        waits.on_batch([row])
        waits.on_batch([bench.window(bench.row(3, 2), shard="001")])
        assert other.wait(SOON)
        assert "docs:2#0" not in bench.texts()
        slow.set()
        waits.snapshot()
        tells.snapshot()
    assert bench.texts() == {"docs:2#0": "doc 2\nmoves", "docs:3#0": "doc 3\ntext"}
    assert bench.refused() == []


def test_a_lane_that_fails_ends_those_that_wait_for_it() -> None:
    bench = Bench()
    gone = moving(bench, 1, 2)
    row = bench.window(bench.partial(2, 2, old=1))
    gone.shard, row.shard = "000", "001"
    with lanes_of(bench, 2) as lanes:
        waits, fails = UpsertLogic(lanes), UpsertLogic(lanes)
        waits.on_batch([row])
        bench.store.fail_next(FatalError(subject="milvus", cause="is gone"), "delete")
        bench.store.fail_next(FatalError(subject="milvus", cause="is gone"), "entities")
        fails.on_batch([gone])
        for logic in (waits, fails):
            with pytest.raises(FatalError, match="milvus: is gone"):
                logic.snapshot()
    assert bench.refused() == []
