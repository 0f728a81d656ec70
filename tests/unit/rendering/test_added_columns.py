"""Columns that are added and dropped: the collection's fields, and what is logged."""

import threading
from typing import Any

import pytest

from flows.sync import collection_specs
from operators.changes.events import KafkaPosition, Upsert
from operators.changes.row_key import RowKey
from operators.changes.rows import PartialRow, Row, texts_of
from operators.changes.version import make_version
from operators.contract.table import UNAVAILABLE, TableSection
from operators.errors import FatalError, RecordError, RetriableError
from operators.rendering.added_columns import AddedColumns
from operators.rendering.drift import MAX_SHAPES_LOGGED
from operators.rendering.renderer import Renderer
from operators.retry import RetryPolicy
from operators.telemetry import Telemetry
from tests.changes import TOPIC, contract, doc, table
from tests.fakes import HashEmbedder, MemoryStore

ADDING = {"drift": {"added": "add"}}


class Bench:
    """A table whose new columns become fields, and its collection."""

    def __init__(self, store: MemoryStore | None = None, **changed: Any) -> None:
        self.table: TableSection = table(**{**ADDING, **changed})
        self.store = store or MemoryStore()
        tables = contract().model_copy(update={"tables": (self.table,)})
        (spec,) = collection_specs(tables, HashEmbedder())
        self.store.ensure(spec)
        self.added = AddedColumns(
            self.table, self.store, RetryPolicy(1.0, Telemetry(), max_wait_s=0)
        )
        self.renderer = Renderer(self.table, added=self.added)

    def fields(self) -> dict[str, str]:
        """The extra fields of the collection, with their types."""
        known = {"kind", "size"}
        return {
            name: spec.type for name, spec in self.store.fields("docs").items() if name not in known
        }

    def row(self, **columns: Any) -> Row:
        rendered = self.renderer.render(upsert(**columns))
        assert isinstance(rendered, Row)
        return rendered


def upsert(**columns: Any) -> Upsert:
    version = make_version(0, f"{1:016x}.{1:016x}", 0)
    position = KafkaPosition(TOPIC, 0, 0)
    return Upsert(RowKey("docs:1"), version, position, 0, "u", doc(1, **columns))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "bool"),
        (7, "int64"),
        (2.5, "double"),
        ([1], "json"),
        ({"a": 1}, "json"),
        ("text", "varchar"),
    ],
)
def test_a_new_column_gets_a_field_of_its_first_value(value: Any, kind: str) -> None:
    bench = Bench()
    assert bench.row(extra=value).columns["extra"] == value
    assert bench.fields() == {"extra": kind}


def test_a_column_without_a_value_waits_for_its_first() -> None:
    bench = Bench()
    assert "extra" not in bench.row(extra=None).columns
    assert "extra" not in bench.row().columns
    assert bench.fields() == {}
    bench.row(extra=1)
    assert bench.row(extra=None).columns["extra"] is None


def test_a_left_out_value_is_no_first_one() -> None:
    bench = Bench()
    bench.renderer.render(upsert(extra=UNAVAILABLE))
    assert bench.fields() == {}
    bench.row(extra="large")
    partial = bench.renderer.render(upsert(extra=UNAVAILABLE))
    assert isinstance(partial, PartialRow)
    assert partial.missing == ("extra",)
    whole = bench.renderer.complete(partial, {}, {"extra": "large"})
    assert isinstance(whole, Row)
    assert whole.columns["extra"] == "large"


def test_a_field_that_is_there_already_is_used_after_a_restart() -> None:
    first = Bench()
    first.row(extra=1)
    second = Bench(first.store)
    assert second.row(extra=2).columns["extra"] == 2


def test_a_value_of_another_type_than_the_first() -> None:
    bench = Bench()
    bench.row(extra=1)
    with pytest.raises(RecordError, match="'extra'") as caught:
        bench.row(extra="no number, and private")
    assert "private" not in str(caught.value)


@pytest.mark.parametrize("how", [{"unmirrored": ["extra"]}, {"soft_delete": "extra"}])
def test_a_column_that_is_no_longer_wanted_stays_out_though_it_has_a_field(
    how: dict[str, Any],
) -> None:
    first = Bench()
    first.row(extra=False)
    second = Bench(first.store, **how)
    assert "extra" not in second.row(extra=False).columns


@pytest.mark.parametrize(
    "name", ["id", "vector", "text", "rv_version", "rv_anything", "", "a b", "é", "1st", "x" * 256]
)
def test_a_name_that_no_field_can_have(name: str) -> None:
    bench = Bench()
    with pytest.raises(RecordError, match="no field of the collection can have its name"):
        bench.added.add(name, 1)
    assert bench.fields() == {}


def test_a_name_that_another_columns_field_has() -> None:
    bench = Bench(columns={"size": {"type": "int64", "field": "pages"}, "kind": "varchar"})
    with pytest.raises(RecordError, match="can have its name"):
        bench.row(pages=1)


def test_a_store_that_is_down_for_a_moment() -> None:
    bench = Bench()
    bench.store.fail_next(RetriableError(subject="milvus", cause="is down"), "add_field")
    bench.row(extra=1)
    assert bench.fields() == {"extra": "int64"}


def test_a_store_that_cannot_add_fields_stops_the_flow() -> None:
    bench = Bench(MemoryStore(can_add_fields=False))
    with pytest.raises(FatalError):
        bench.row(extra=1)


def test_shards_that_meet_a_column_at_the_same_time_add_it_once() -> None:
    calls: list[str] = []
    together = threading.Barrier(4, timeout=20)

    class Counting(MemoryStore):
        def add_field(self, collection: str, name: str, spec: Any) -> None:
            calls.append(name)
            super().add_field(collection, name, spec)

    bench = Bench(Counting())
    errors: list[BaseException] = []

    def render() -> None:
        together.wait()
        try:
            for number in range(20):
                assert bench.row(**{f"extra{number}": 1}).columns[f"extra{number}"] == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=render) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(calls) == sorted({f"extra{number}" for number in range(20)})


def test_every_change_of_the_columns_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    renderer = Renderer(table())
    for _ in range(3):
        renderer.render(upsert())
        renderer.render(upsert(extra="private"))
    assert [record.getMessage() for record in caplog.records] == [
        f"The columns of {TOPIC} changed: 'extra' came, no fields went (drift.added = ignore)"
    ]


def test_rows_of_all_kinds_fill_neither_the_log_nor_the_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    renderer = Renderer(table())
    for number in range(10 * MAX_SHAPES_LOGGED):
        renderer.render(upsert(**{f"extra{number}": 1}))
    assert len(caplog.records) < MAX_SHAPES_LOGGED
    assert len(renderer._drift._shapes) <= MAX_SHAPES_LOGGED


def test_an_ignored_column_leaves_no_trace() -> None:
    rendered = Renderer(table()).render(upsert(extra="private"))
    assert isinstance(rendered, Row)
    assert "private" not in repr(rendered)
    assert texts_of(rendered) == {"name": "doc 1", "doc": "text"}
