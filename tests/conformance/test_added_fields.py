"""Adding a field to an existing collection.

No package brings Milvus 2.6, the first version that can. Milvus Lite stands in: the test makes the
client believe that it can add fields, and carries out that one request by creating the empty
collection again with the field. Everything but the server's part is real.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pymilvus import DataType, MilvusClient, MilvusException
from pymilvus.client.prepare import Prepare

from operators.contract.field_names import MAX_FIELDS
from operators.contract.sections import MilvusSection
from operators.contract.table import ColumnSpec
from operators.errors import FatalError, RetriableError
from operators.milvus.schema import collection_shape
from operators.milvus.store import MilvusStore
from tests.conformance.test_store import FULL, NULLS, entity, spec_of
from tests.fakes import MemoryStore

MORE = {
    "colour": ColumnSpec(type="varchar", max_length=40),
    "width": ColumnSpec(type="double"),
    "tags": ColumnSpec(type="json"),
    "stocked": ColumnSpec(type="bool"),
}
VALUES = {"colour": "röd", "width": 0.5, "tags": {"a": [1]}, "stocked": True}


@dataclass
class Stand:
    """Milvus Lite as a server that can add fields to an empty collection."""

    path: Path
    requests: int = 0
    fails_after: Exception | None = None

    def open(self) -> MilvusStore:
        store = MilvusStore(MilvusSection(uri=str(self.path)))
        store._client.can_add_fields = True
        store._client._client.add_collection_field = self.add_collection_field
        return store

    def add_collection_field(
        self,
        collection_name: str,
        field_name: str,
        data_type: DataType,
        desc: str = "",
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        assert timeout
        self.requests += 1
        added = MilvusClient.create_field_schema(field_name, data_type, desc, **options)
        sent = Prepare.add_collection_field_request(collection_name, added)
        assert sent.collection_name == collection_name
        with closing(MilvusStore(MilvusSection(uri=str(self.path)))) as store:
            client = store._client._client
            assert store.count(collection_name) == 0
            about = client.describe_collection(collection_name)
            schema = MilvusClient.create_schema(enable_dynamic_field=False)
            for field in about["fields"]:
                more = {"nullable": True} if field.get("nullable") else {}
                more |= {"is_primary": True} if field.get("is_primary") else {}
                schema.add_field(field["name"], field["type"], **field["params"], **more)
            schema.add_field(field_name, data_type, **options)
            index = MilvusClient.prepare_index_params()
            index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
            client.drop_collection(collection_name)
            properties = about["properties"]
            client.create_collection(collection_name, schema=schema, properties=properties)
            client.create_index(collection_name, index)
            client.load_collection(collection_name)
        if self.fails_after is not None:
            raise self.fails_after


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path / "milvus.db")


@pytest.fixture(params=["memory", "lite"])
def store(request: pytest.FixtureRequest, stand: Stand) -> Iterator[Any]:
    with ExitStack() as stack:
        yield (
            MemoryStore()
            if request.param == "memory"
            else stack.enter_context(closing(stand.open()))
        )


def add_all(store: Any, collection: str) -> None:
    for name, column in MORE.items():
        store.add_field(collection, name, column)


def test_entities_have_the_new_fields_and_may_lack_them(store: Any):
    spec = spec_of("grows", extra_fields=True)
    store.ensure(spec)
    assert store.can_add_fields
    add_all(store, "grows")
    assert {name: store.fields("grows")[name] for name in MORE} == MORE
    with_all, without = entity("1", columns={**FULL, **VALUES}), entity("2")
    store.upsert("grows", [with_all, without])
    found = store.entities("grows", [with_all.id, without.id])
    assert found[with_all.id].columns == {**FULL, **VALUES}
    assert found[without.id].columns == {**FULL, **dict.fromkeys(MORE)}
    store.upsert("grows", [entity("1", 2, columns=NULLS)])
    assert store.entities("grows", [with_all.id])[with_all.id].columns == {
        **NULLS,
        **dict.fromkeys(MORE),
    }
    hits = store.search("grows", without.vector, 2)
    assert hits[0].columns.keys() == {*FULL, *MORE}


def test_what_was_there_holds_null():
    store = MemoryStore()  # No other store of this suite can add a field to existing entities.
    store.ensure(spec_of("grows", extra_fields=True))
    store.upsert("grows", [entity("1")])
    add_all(store, "grows")
    found = store.entities("grows", [entity("1").id])[entity("1").id]
    assert found.columns == {**FULL, **dict.fromkeys(MORE)}


def test_the_field_may_be_there_already(store: Any):
    store.ensure(spec_of("grows", extra_fields=True))
    add_all(store, "grows")
    store.upsert("grows", [entity("1")])
    add_all(store, "grows")
    store.add_field("grows", "colour", ColumnSpec(type="varchar", max_length=39, field="hue"))
    store.add_field("grows", "title", ColumnSpec(type="varchar", max_length=64))
    assert store.count("grows") == 1
    assert store.fields("grows")["colour"].max_length == 40


@pytest.mark.parametrize(
    ("name", "column", "cause"),
    [
        (
            "colour",
            ColumnSpec(type="int64"),
            r"is there as varchar\(40\), the new column needs int",
        ),
        ("colour", ColumnSpec(type="varchar", max_length=41), r"needs varchar\(41\)"),
        ("stock", ColumnSpec(type="int32"), "is there as int64, the new column needs int32"),
        ("text", ColumnSpec(type="varchar"), "is the name of a field of Rowvec's own"),
        ("rv_more", ColumnSpec(type="int64"), "is the name of a field of Rowvec's own"),
    ],
)
def test_a_field_that_cannot_be(store: Any, name: str, column: ColumnSpec, cause: str):
    store.ensure(spec_of("grows", extra_fields=True))
    store.add_field("grows", "colour", MORE["colour"])
    before = store.fields("grows")
    with pytest.raises(FatalError, match=cause) as refused:
        store.add_field("grows", name, column)
    assert "`field`" in refused.value.hint
    assert store.fields("grows") == before


def test_a_field_that_is_one_too_many(store: Any):
    free = MAX_FIELDS - len(collection_shape(spec_of("grows")).fields)
    fields = {f"c{n}": ColumnSpec(type="int64") for n in range(free - 1)}
    spec = spec_of("grows", extra_fields=True)
    store.ensure(replace(spec, fields={**spec.fields, **fields}))
    store.add_field("grows", "last", ColumnSpec(type="int64"))
    with pytest.raises(FatalError, match="one more than the 64 fields") as refused:
        store.add_field("grows", "more", ColumnSpec(type="int64"))
    assert "`unmirrored`" in refused.value.hint
    store.add_field("grows", "last", ColumnSpec(type="int64"))


def test_a_contract_that_wants_no_extra_fields(store: Any):
    store.ensure(spec_of("fixed"))
    with pytest.raises(FatalError, match="is none that the contract names"):
        store.add_field("fixed", "colour", MORE["colour"])
    with pytest.raises(FatalError, match=r"was not checked|does not exist"):
        store.add_field("unknown", "colour", MORE["colour"])


def test_the_next_start_takes_the_collection_as_it_is(store: Any):
    spec = spec_of("grows", extra_fields=True)
    store.ensure(spec)
    add_all(store, "grows")
    assert store.ensure(spec)
    assert store.fields("grows").keys() == {*FULL, *MORE}
    store.upsert("grows", [entity("1")])
    with pytest.raises(FatalError, match="it has a field 'colour' that the contract does not name"):
        store.ensure(spec_of("grows"))


def test_two_processes_meet_the_column_at_once(stand: Stand):
    spec = spec_of("grows", extra_fields=True)
    with closing(stand.open()) as one, closing(stand.open()) as other:
        one.ensure(spec)
        other.ensure(spec)
        one.add_field("grows", "colour", MORE["colour"])
        other.add_field("grows", "colour", MORE["colour"])
        assert stand.requests == 1
        other.upsert("grows", [entity("1", columns={**FULL, "colour": "röd"})])
        one.upsert("grows", [entity("2")])
        colours = {row["id"]: row["colour"] for row in one.scan("grows", ["colour"])}
        assert colours == {"items:1#0": "röd", "items:2#0": None}


def test_another_process_was_faster(stand: Stand):
    stand.fails_after = MilvusException(1100, "duplicate field name: colour")
    with closing(stand.open()) as store:
        store.ensure(spec_of("grows", extra_fields=True))
        store.add_field("grows", "colour", MORE["colour"])
        assert store.fields("grows")["colour"] == MORE["colour"]


def test_a_field_that_is_not_to_be_seen_yet(stand: Stand):
    with closing(stand.open()) as store:
        store.ensure(spec_of("grows", extra_fields=True))
        add = store._client._client.add_collection_field
        store._client._client.add_collection_field = lambda *args, **options: None
        with pytest.raises(RetriableError, match="not to be seen yet"):
            store.add_field("grows", "colour", MORE["colour"])
        store._client._client.add_collection_field = add
        store.add_field("grows", "colour", MORE["colour"])
        store.upsert("grows", [entity("1", columns={**FULL, "colour": "röd"})])


def test_a_refusal_is_told(stand: Stand):
    def refuse(*args: Any, **options: Any) -> None:
        raise MilvusException(1100, "maximum field's number should be limited to 64")

    with closing(stand.open()) as store:
        store.ensure(spec_of("grows", extra_fields=True))
        store._client._client.add_collection_field = refuse
        with pytest.raises(FatalError, match="limited to 64") as refused:
            store.add_field("grows", "colour", MORE["colour"])
        assert "new field 'colour'" in refused.value.subject
        assert store.fields("grows").keys() == FULL.keys()


@pytest.mark.parametrize(
    ("version", "nullable", "can_add_fields"),
    [
        ("milvus_lite-3.2.2", True, False),
        ("v2.3.5-lite", False, False),
        ("2.4.23", False, False),
        ("v2.5.0", True, False),
        ("v2.6.0-rc1", True, True),
        ("2.10.1", True, True),
        ("3.0.0", True, True),
        ("master-20260101-abcdef", True, True),
    ],
)
def test_what_a_server_can_do_goes_by_its_version(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    nullable: bool,
    can_add_fields: bool,
):
    monkeypatch.setattr(MilvusClient, "get_server_version", lambda *args, **options: version)
    with closing(MilvusStore(MilvusSection(uri=str(tmp_path / "milvus.db")))) as store:
        assert (store.nullable, store.can_add_fields) == (nullable, can_add_fields)
