"""What every `VectorStore` promises, tested on one in memory and on every kind of Milvus."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from socket import create_server
from urllib.parse import quote

import numpy as np
import pytest
from pymilvus import MilvusClient

from operators.changes.events import KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.shards import SHARDS, shard_of
from operators.changes.version import Version, make_version, origin_of_table, tail_of
from operators.codec.row_keys import KeyMaker
from operators.contract.sections import MilvusSection
from operators.contract.table import ColumnSpec, TableSection
from operators.errors import FatalError, RecordError, RetriableError
from operators.milvus.store import MilvusStore
from operators.ownership.ledger_entries import differ
from operators.store.protocol import CollectionSpec, Entity, Stored, entity_id
from tests.conformance.conftest import REAL_MILVUS, Backend, free_port, lite_server
from tests.fakes import MemoryStore

DIM = 8
COLUMNS = {
    "title": ColumnSpec(type="varchar", max_length=64),
    "stock": ColumnSpec(type="int64"),
    "shelf": ColumnSpec(type="int32"),
    "price": ColumnSpec(type="double"),
    "weight": ColumnSpec(type="float"),
    "sold": ColumnSpec(type="bool"),
    "extra": ColumnSpec(type="json"),
}
FULL = {
    "title": "Löwe",
    "stock": -(2**63),
    "shelf": 2**31 - 1,
    "price": 0.1,
    "weight": 1.5,
    "sold": True,
    "extra": {"a": [1, None], "b": {"c": "ö"}},
}
NULLS = dict.fromkeys(FULL)
ZEROS = {
    "title": "",
    "stock": 0,
    "shelf": 0,
    "price": 0.0,
    "weight": 0.0,
    "sold": False,
    "extra": {},
}
HOSTILE = [
    "plain",
    "with 'quotes'",
    'with "double quotes"',
    "back\\slash",
    "trailing\\",
    "zz'] or id not in ['zz",
    'zz"] or id not in ["zz',
    "%' or 1==1 or '%",
    "new\nline",
    "tab\t and nul\0",
    "Ünï¢ödé 漢字 🦁",
    "{curly} and {0}",
    "a/b#1,c:d",
    "",
]
TABLES = [
    "items",
    "item",
    "items2",
    "Items",
    "it_ms",
    "it%ms",
    "items:",
    "items;",
    "items%3A",
    "a' or id > '",
    'a" or id > "',
    "back\\slash",
    "漢字 🦁",
    "\x00",
    "%",
]
SPANS = (("name", 0, 3), ('"quoted" \\ 漢字', 4, 10), ("gone", -1, -1))
IDENTITY = {"server": r"[0-9a-f]{32}@\d{15,}"}  # only a server tells its own id of a collection
IDENTITY |= dict.fromkeys(("memory", "lite", "lite-server"), "[0-9a-f]{32}")
_names = (f"c{number}" for number in itertools.count())


def spec_of(name: str, **changes) -> CollectionSpec:
    spec = CollectionSpec(name=name, fields=COLUMNS, dim=DIM, metric="COSINE", model="hash@1")
    return replace(spec, **changes)


def vector_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


def entity(key: str, version: int = 1, **changes) -> Entity:
    row_key = RowKey(f"items:{quote(key, safe='')}")
    made = Entity(
        id=entity_id(row_key),
        vector=vector_of(version),
        text=f"text of {version}",
        text_hash=f"hash{version}",
        columns=FULL,
        table="items",
        row_key=row_key,
        version=Version(f"{version:016x}"),
        op="c",
        source_ts_ms=1_700_000_000_000 + version,
        position=KafkaPosition("shop.items", 3, version),
        model="hash@1",
    )
    return made._replace(**changes)


def row_of(table: str, key: int, version: int, chunk: int = 0) -> Entity:
    """An entity with the id that the flow would give it."""
    section = TableSection(topic="t", name=table, collection="c", key=("id",), text="{id}")
    row_key = KeyMaker(section)({"id": key})
    made = entity("", version, table=table, row_key=row_key, chunk=chunk)
    return made._replace(id=entity_id(row_key, chunk))


def assert_same(found: Entity, wanted: Entity) -> None:
    assert found.vector.dtype == np.float32
    assert found.vector.tobytes() == wanted.vector.tobytes()
    assert found._replace(vector=None) == wanted._replace(vector=None)


def contents(backend: Backend, collection: str) -> dict[str, dict]:
    """Everything in a collection but the vectors, by id; fails if an id occurs twice."""
    rows = list(backend.store.scan(collection))
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def columns_of(row: dict) -> dict:
    return {name: row[name] for name in COLUMNS}


@pytest.fixture(scope="module")
def shared(backend: Backend) -> str:
    """A collection shared by the tests that look at their own ids only."""
    name = next(_names)
    assert backend.store.ensure(spec_of(name))
    return name


@pytest.fixture
def fresh(backend: Backend, shared: str) -> str:
    """The shared collection, emptied: creating a new one takes a server three seconds."""
    backend.store.delete(shared, [row["id"] for row in backend.store.scan(shared, ["id"])])
    return shared


# What is written is what is there


def test_an_entity_comes_back_with_every_field(backend: Backend, fresh: str):
    one = entity("1", 7, chunk=2, chunks=5, start=900, spans=(("title", 0, 4), ("doc", -1, -1)))
    backend.store.upsert(fresh, [one])
    assert contents(backend, fresh) == {
        one.id: {
            "id": one.id,
            "text": "text of 7",
            **FULL,
            "rv_table": "items",
            "rv_row_key": "items:1",
            "rv_version": "0000000000000007",
            "rv_op": "c",
            "rv_source_ts_ms": 1_700_000_000_007,
            "rv_topic": "shop.items",
            "rv_partition": 3,
            "rv_offset": 7,
            "rv_model": "hash@1",
            "rv_text_hash": "hash7",
            "rv_chunk": 2,
            "rv_chunks": 5,
            "rv_start": 900,
            "rv_spans": '[["title",0,4],["doc",-1,-1]]',
            "rv_shard": int(shard_of("items:1")),
        }
    }


def test_upsert_replaces_every_field(backend: Backend, shared: str):
    store = backend.store
    one = entity("replaced")
    store.upsert(shared, [one])
    store.upsert(shared, [one._replace(columns={**FULL, "extra": {"only": 1}}, text="")])
    (row,) = [row for row in store.scan(shared) if row["id"] == one.id]
    assert row["extra"] == {"only": 1}
    assert row["text"] == ""
    store.upsert(shared, [entity("replaced", 2, columns=NULLS)])
    (row,) = [row for row in store.scan(shared) if row["id"] == one.id]
    assert columns_of(row) == (NULLS if store.nullable else ZEROS)
    assert (row["text"], row["rv_version"]) == ("text of 2", "0000000000000002")
    found, vector = store.vectors(shared, [one.id])[one.id]
    assert found == "hash2"
    assert np.array_equal(vector, vector_of(2))


def test_upserting_again_changes_nothing(backend: Backend, fresh: str):
    batch = [entity(str(key), key) for key in range(50)]
    backend.store.upsert(fresh, batch)
    once = contents(backend, fresh)
    for _ in range(3):
        backend.store.upsert(fresh, batch)
    assert contents(backend, fresh) == once
    assert backend.store.count(fresh) == 50


def test_a_read_sees_every_write_before_it(backend: Backend, fresh: str):
    store = backend.store
    for version in range(1, 11):
        one = entity("one", version)
        store.upsert(fresh, [one])
        assert store.stored(fresh, [one.id]) == {one.id: Stored(one.version, f"hash{version}")}
    assert store.count(fresh) == 1
    store.delete(fresh, [one.id])
    assert store.stored(fresh, [one.id]) == {}
    assert store.count(fresh) == 0


def test_vectors_come_back_exactly(backend: Backend, shared: str):
    odd = [1e-45, -0.0, 3.4e38, -1e-30, 1 / 3, 2**-126, 65_504.0, 16_777_217.0]
    batch = [entity("odd", vector=np.array(odd, np.float32))]
    batch += [entity(f"exact{seed}", vector=vector_of(seed)) for seed in range(100)]
    backend.store.upsert(shared, batch)
    found = backend.store.vectors(shared, [one.id for one in batch])
    assert found.keys() == {one.id for one in batch}
    for one in batch:
        text_hash, vector = found[one.id]
        assert text_hash == one.text_hash
        assert (vector.dtype, vector.shape) == (np.float32, (DIM,))
        assert vector.tobytes() == one.vector.tobytes()


def test_stored_tells_how_many_chunks_there_are(backend: Backend, shared: str):
    one = entity("in chunks", 3, chunks=4)
    backend.store.upsert(shared, [one])
    assert backend.store.stored(shared, [one.id]) == {one.id: Stored(one.version, "hash3", 4)}


def test_entities_come_back_whole_and_written_again_change_nothing(backend: Backend, fresh: str):
    store = backend.store
    batch = [
        entity("full", 1, chunk=1, chunks=3, start=17, spans=SPANS),
        entity("nulls", 2, columns=NULLS, op="r", model="other@2"),
        entity("zeros", 3, columns=ZEROS, text=""),
        entity("json-text", 4, columns={**FULL, "extra": {"b": [1.5, "ö"], "c": ""}}),
        entity("inexact", 5, columns={**FULL, "weight": 0.1, "price": 1 / 3}),
        entity("hostile\\ 'key' \"1\"", 6, vector=np.array([1e-45, -0.0] * 4, np.float32)),
    ]
    if store.nullable:
        batch.append(entity("json-array", 7, columns={**FULL, "extra": [1, None, {"a": "b"}]}))
    store.upsert(fresh, batch)
    once = contents(backend, fresh)
    found = store.entities(fresh, [one.id for one in batch])
    assert found.keys() == {one.id for one in batch}
    assert_same(found[batch[0].id], batch[0])
    nulls = batch[1]._replace(columns=NULLS if store.nullable else ZEROS)
    assert_same(found[batch[1].id], nulls)
    assert_same(found[batch[5].id], batch[5])
    store.upsert(fresh, list(found.values()))
    assert contents(backend, fresh) == once
    again = store.entities(fresh, list(found))
    for id_, one in found.items():
        assert_same(again[id_], one)


def test_spans_that_do_not_fit_cost_only_themselves(backend: Backend, shared: str):
    longest = "x" * (16_384 - len('[["",0,1]]'))
    for name, kept in [(longest, True), (longest + "x", False), ("ä" * 8_190, False)]:
        one = entity("spans", 2, spans=((name, 0, 1),))
        backend.store.upsert(shared, [one])
        found = backend.store.entities(shared, [one.id])[one.id]
        assert_same(found, one if kept else one._replace(spans=()))


def test_only_ids_that_exist_are_found(backend: Backend, shared: str):
    here, gone = entity("here"), entity("gone")
    backend.store.upsert(shared, [here])
    assert backend.store.stored(shared, [here.id, gone.id]).keys() == {here.id}
    assert backend.store.vectors(shared, [gone.id, here.id]).keys() == {here.id}
    assert backend.store.entities(shared, [gone.id, here.id]).keys() == {here.id}
    assert backend.store.stored(shared, []) == {}
    assert backend.store.vectors(shared, []) == {}
    assert backend.store.entities(shared, []) == {}
    backend.store.upsert(shared, [])
    backend.store.delete(shared, [])


def test_delete_removes_what_it_names_and_nothing_else(backend: Backend, fresh: str):
    store = backend.store
    batch = [entity(str(key)) for key in range(10)]
    store.upsert(fresh, batch)
    store.delete(fresh, [entity("missing").id])
    assert store.count(fresh) == 10
    store.delete(fresh, [batch[0].id, entity("missing").id, batch[9].id])
    store.delete(fresh, [batch[0].id])
    assert contents(backend, fresh).keys() == {one.id for one in batch[1:9]}
    store.upsert(fresh, [batch[0]])
    assert store.count(fresh) == 9


def test_hostile_keys_come_back_and_delete_only_themselves(backend: Backend, fresh: str):
    store = backend.store
    batch = [entity(key, number) for number, key in enumerate(HOSTILE, start=1)]
    store.upsert(fresh, batch)
    assert contents(backend, fresh).keys() == {one.id for one in batch}
    ids = [one.id for one in batch]
    assert backend.store.vectors(fresh, ids).keys() == set(ids)
    for one in batch:  # If a delete removed other ids too, a later one would be missing.
        assert store.stored(fresh, [one.id]) == {one.id: Stored(one.version, one.text_hash)}
        store.delete(fresh, [one.id])
    assert store.stored(fresh, ids) == {}


def test_an_id_that_is_not_encoded_reaches_no_filter(backend: Backend, shared: str):
    kept = entity("kept")
    backend.store.upsert(shared, [kept])
    for key in ["zz'] or id not in ['zz", 'a"b', "a\\", "a b", "ä", ""]:
        store = backend.store
        for call in (store.delete, store.stored, store.vectors, store.entities):
            with pytest.raises(FatalError, match="not percent-encoded"):
                call(shared, [kept.id, key])
        with pytest.raises(FatalError, match="not percent-encoded"):
            backend.store.upsert(shared, [kept._replace(id=key)])
    assert backend.store.stored(shared, [kept.id])


def test_count_is_exact_after_overwrites_and_deletes(backend: Backend, fresh: str):
    for version in range(1, 6):
        batch = [entity(str(key), version) for key in range(version * 20)]
        backend.store.upsert(fresh, batch)
    backend.store.delete(fresh, [one.id for one in batch[::2]])
    assert backend.store.count(fresh) == 50
    assert {row["rv_version"] for row in backend.store.scan(fresh)} == {"0000000000000005"}


def test_thousands_of_rows_in_one_call(backend: Backend, fresh: str):
    store = backend.store
    batch = [entity(str(key), key, columns={**FULL, "stock": key}) for key in range(3_000)]
    store.upsert(fresh, batch)
    ids = [one.id for one in batch]
    assert store.count(fresh) == 3_000
    assert store.stored(fresh, ids) == {o.id: Stored(o.version, o.text_hash) for o in batch}
    found = store.vectors(fresh, ids)
    assert all(np.array_equal(found[one.id][1], one.vector) for one in batch)
    scanned = {row["id"]: row["stock"] for row in store.scan(fresh, ["stock"])}
    assert scanned == {one.id: number for number, one in enumerate(batch)}
    assert contents(backend, fresh).keys() == set(ids)  # in smaller pages, because of the texts
    store.delete(fresh, ids[:2_500])
    assert contents(backend, fresh).keys() == set(ids[2_500:])


def test_long_texts_fill_more_than_one_request(backend: Backend, fresh: str):
    text = "ä" * 30_000
    batch = [entity(str(key), text=text + str(key)) for key in range(320)]  # about 18 MiB
    backend.store.upsert(fresh, batch)
    found = {row["id"]: row["text"] for row in backend.store.scan(fresh, ["text"])}
    assert found == {one.id: one.text for one in batch}


# TRUNCATE: the older rows of one table


def test_delete_older_leaves_newer_rows_and_other_tables(backend: Backend, fresh: str):
    store = backend.store
    left = {one.id for table in TABLES for n in range(1, 6) for one in [row_of(table, n, n)]}
    store.upsert(fresh, [row_of(table, n, n) for table in TABLES for n in range(1, 6)])
    store.delete_older(fresh, "no such table", Version("f" * 16))
    assert contents(backend, fresh).keys() == left
    for number, table in enumerate(TABLES):
        version = number % 4 + 2  # rows below this version are removed, a row at it stays
        store.delete_older(fresh, table, Version(f"{version:016x}"))
        left -= {row_of(table, n, n).id for n in range(1, version)}
        assert contents(backend, fresh).keys() == left, table


def test_delete_older_removes_every_chunk(backend: Backend, fresh: str):
    store = backend.store
    store.upsert(fresh, [row_of("items", 1, 1, chunk) for chunk in range(12)])
    store.upsert(fresh, [row_of("items", 2, 3, chunk) for chunk in range(12)])
    store.delete_older(fresh, "items", Version(f"{2:016x}"))
    assert contents(backend, fresh).keys() == {f"items:2#{chunk}" for chunk in range(12)}
    store.delete_older(fresh, "items", Version(f"{4:016x}"))
    store.delete_older(fresh, "items", Version(f"{4:016x}"))
    assert store.count(fresh) == 0


def test_delete_older_leaves_other_shards(backend: Backend, fresh: str):
    store = backend.store
    rows = [row_of(table, n, 1) for table in ("items", "other") for n in range(1_000)]
    shards = {one.id: int(shard_of(one.row_key)) for one in rows}
    assert {*shards.values()} == {*range(SHARDS)}
    store.upsert(fresh, rows)
    left = {*shards}
    for some in ([], [0], [7, 255, 3], {*range(100, 200)}, {*range(SHARDS)}):
        store.delete_older(fresh, "items", Version("f"), some)
        left -= {id_ for id_ in left if id_.startswith("items:") and shards[id_] in some}
        assert contents(backend, fresh).keys() == left
    assert len(left) == 1_000


@pytest.mark.parametrize("shards", [[256], [-1], [1.0], ["0] or id in ['"]])
def test_what_is_no_shard_reaches_no_filter(backend: Backend, shared: str, shards: list):
    with pytest.raises(FatalError, match="no number from 0 to 255"):
        backend.store.delete_older(shared, "items", Version("f"), shards)


def test_delete_older_compares_as_strings_do(backend: Backend, fresh: str):
    versions = ["0000.0f.09", "0000.10.00", "0000.1", "0001.0", "0000.10.0", "000a", "0000.10.0f"]
    rows = [
        row_of("items", n, n)._replace(version=Version(version))
        for n, version in enumerate(versions)
    ]
    backend.store.upsert(fresh, rows)
    bound = Version("0000.10.00")
    backend.store.delete_older(fresh, "items", bound)
    kept = {row["rv_version"] for row in backend.store.scan(fresh, ["rv_version"])}
    assert kept == {version for version in versions if version >= bound}


def test_delete_older_leaves_other_physical_tables(backend: Backend, fresh: str):
    position = f"{5:016x}.{5:016x}"
    docs, notes = (
        tail_of("1234567", origin_of_table(("app", "db"), (name,))) for name in ("docs", "notes")
    )
    versions = {
        number: make_version(0, position, number, tail)
        for number, tail in enumerate([docs, notes, "", docs, notes])
    }
    rows = [row_of("items", n, n)._replace(version=each) for n, each in versions.items()]
    backend.store.upsert(fresh, rows)
    backend.store.delete_older(fresh, "items", make_version(1, position, 0, docs))
    assert contents(backend, fresh).keys() == {row_of("items", n, n).id for n in (1, 4)}


def test_delete_older_of_more_rows_than_one_answer_holds(backend: Backend, fresh: str):
    store = backend.store
    columns = {**NULLS, "title": "many"}
    for start in range(0, 20_000, 5_000):
        numbers = range(start, start + 5_000)
        store.upsert(fresh, [row_of("big", n, n)._replace(columns=columns) for n in numbers])
    store.upsert(fresh, [row_of("bigger", n, 1) for n in range(10)])
    store.delete_older(fresh, "big", Version(f"{19_990:016x}"))
    left = {row_of("big", n, n).id for n in range(19_990, 20_000)}
    assert contents(backend, fresh).keys() == left | {row_of("bigger", n, 1).id for n in range(10)}


@pytest.mark.parametrize("version", ["", "0' or id > '", "0 ", "0\n", "g", "0000.A", "٣"])
def test_what_is_no_version_reaches_no_filter(backend: Backend, shared: str, version: str):
    kept = row_of("kept", 1, 1)
    backend.store.upsert(shared, [kept])
    with pytest.raises(FatalError, match="more than hex digits and dots"):
        backend.store.delete_older(shared, "kept", Version(version))
    assert backend.store.stored(shared, [kept.id])


# What cannot be stored is refused before anything is sent


NAN = np.array([1, np.nan, *range(DIM - 2)], np.float32)
INFINITE = np.array([np.inf, *range(DIM - 1)], np.float32)
REFUSED = {
    "text-bytes": ({"text": "ä" * 32_768}, "text", "65536 bytes of UTF-8, more than 65535"),
    "varchar-bytes": ({"title": "ä" * 33}, "title", "66 bytes of UTF-8, more than 64"),
    "surrogate": ({"text": "a\ud800"}, "text", "not valid Unicode"),
    "nan": ({"vector": NAN}, "vector", "NaN"),
    "infinity": ({"vector": INFINITE}, "vector", "infinity"),
    "short-vector": ({"vector": vector_of(1)[:-1]}, "vector", "7 dimensions, not 8"),
    "float64": ({"vector": vector_of(1).astype(np.float64)}, "vector", "float32"),
    "int64": ({"stock": 2**63}, "stock", "does not fit int64"),
    "uint64": ({"stock": 2**64 - 1}, "stock", "does not fit int64"),
    "int64-below": ({"stock": -(2**63) - 1}, "stock", "does not fit int64"),
    "int32": ({"shelf": -(2**31) - 1}, "shelf", "does not fit int32"),
    "float": ({"weight": 1e39}, "weight", "does not fit float"),
    "double": ({"price": 10**400}, "price", "does not fit double"),
    "nan-column": ({"price": float("nan")}, "price", "NaN"),
    "text-in-int": ({"stock": "12"}, "stock", "is str where int64 belongs"),
    "int-in-bool": ({"sold": 1}, "sold", "is int where bool belongs"),
    "bool-in-int": ({"stock": True}, "stock", "is bool where int64 belongs"),
    "no-json": ({"extra": {"a": {1, 2}}}, "extra", "not JSON"),
    "nan-json": ({"extra": {"a": float("inf")}}, "extra", "not JSON"),
    "json-text": ({"extra": '{"a": 1}'}, "extra", "is JSON, but not an object"),
    "scalar-json": ({"extra": 12}, "extra", "is JSON, but not an object"),
    "big-json": ({"extra": {"a": [{"b": 2**64}]}}, "extra", "more than 64 bits"),
    "low-json": ({"extra": {"a": [1.5, -(2**63) - 1]}}, "extra", "more than 64 bits"),
    "digits-json": ({"extra": {str(10**20): int("1" * 23)}}, "extra", "more than 64 bits"),
    "long-json": ({"extra": {"a": "x" * 65_536}}, "extra", "bytes of JSON, more than 65536"),
    "long-key": ({"row_key": "x" * 1_025}, "rv_row_key", "1025 bytes"),
    "long-id": ({"id": "x" * 1_025}, "id", "1025 bytes"),
    "null-text": ({"text": None}, "text", "is NoneType where varchar belongs"),
}


def test_what_does_not_fit_is_refused_whole(backend: Backend, shared: str):
    for case, (changes, field, cause) in REFUSED.items():
        columns = {name: value for name, value in changes.items() if name in COLUMNS}
        others = {name: value for name, value in changes.items() if name not in COLUMNS}
        bad = entity(f"bad-{case}", columns={**FULL, **columns})
        bad = bad._replace(**others)
        with pytest.raises(RecordError) as refused:
            backend.store.upsert(shared, [entity(f"good-{case}"), bad])
        assert refused.value.subject == f"entity '{bad.id[:200]}', field '{field}'"
        assert cause in refused.value.cause
        assert refused.value.hint
        for value in ("äää", "xxx", "text of"):
            assert value not in refused.value.cause + refused.value.hint
    goods = [entity(f"good-{case}").id for case in REFUSED]
    assert backend.store.stored(shared, goods) == {}


def test_numbers_in_json_come_back_exactly(backend: Backend, shared: str):
    numbers = [
        2**53 + 1,
        2**63 - 1,
        -(2**63),
        2**64 - 1,
        1e300,
        1234567890123456789e5,
        0.1,
        "1" * 30,
    ]
    one = entity("numbers", columns={**FULL, "extra": {"a": numbers, "9" * 20: 1}})
    backend.store.upsert(shared, [one])
    found = backend.store.entities(shared, [one.id])[one.id]
    assert found.columns["extra"] == one.columns["extra"]
    assert [type(n) for n in found.columns["extra"]["a"]] == [type(n) for n in numbers]
    backend.store.upsert(shared, [found])
    assert (
        backend.store.entities(shared, [one.id])[one.id].columns["extra"] == found.columns["extra"]
    )


def test_limits_are_inclusive(backend: Backend, shared: str):
    edge = {
        "title": "ä" * 32,
        "stock": 2**63 - 1,
        "shelf": -(2**31),
        "price": 1.7976931348623157e308,
        "weight": 3.4028234663852886e38,
        "sold": False,
        "extra": {"a": "x" * (65_536 - 8)},
    }
    key = "k" * (1_024 - len("items:#0"))
    one = entity(key, text="ä" * 32_767, columns=edge)
    assert len(one.id) == 1_024
    assert len(json.dumps(edge["extra"], separators=(",", ":"))) == 65_536
    backend.store.upsert(shared, [one])
    (row,) = [row for row in backend.store.scan(shared) if row["id"] == one.id]
    assert columns_of(row) == edge
    assert row["text"] == one.text


def test_json_arrays_are_stored_or_refused(backend: Backend, shared: str):
    one = entity("json-array", columns={**FULL, "extra": [1, {"a": 2}]})
    if not backend.store.nullable:  # Milvus before 2.5 accepts JSON objects only
        with pytest.raises(RecordError, match="not an object"):
            backend.store.upsert(shared, [one])
        return
    backend.store.upsert(shared, [one])
    (row,) = [row for row in backend.store.scan(shared, ["extra"]) if row["id"] == one.id]
    assert row["extra"] == [1, {"a": 2}]


def test_an_id_twice_in_one_call_is_refused(backend: Backend, shared: str):
    one = entity("twice")
    with pytest.raises(RecordError, match="comes twice in one call") as refused:
        backend.store.upsert(shared, [one, entity("other"), one._replace(text="later")])
    assert one.id in refused.value.subject
    assert backend.store.stored(shared, [one.id]) == {}


@pytest.mark.parametrize("columns", [{}, {**FULL, "more": 1}], ids=["too-few", "too-many"])
def test_every_field_has_to_be_given(backend: Backend, shared: str, columns: dict):
    one = entity("fields", columns=columns)
    with pytest.raises(FatalError, match="fields of the collection differ in: "):
        backend.store.upsert(shared, [one])
    assert backend.store.stored(shared, [one.id]) == {}


# The collection is what the contract says


def test_ensure_tells_whether_the_collection_is_empty(backend: Backend):
    spec = spec_of(next(_names))
    assert backend.store.ensure(spec)
    assert backend.store.ensure(spec)
    backend.store.upsert(spec.name, [entity("1")])
    assert not backend.store.ensure(spec)
    backend.store.delete(spec.name, [entity("1").id])
    assert backend.store.ensure(spec)


def test_every_difference_is_told_at_once_and_nothing_is_altered(backend: Backend):
    spec = spec_of(next(_names))
    backend.store.ensure(spec)
    one = entity("1")
    backend.store.upsert(spec.name, [one])
    fields = {k: v for k, v in COLUMNS.items() if k not in ("price", "stock", "title")}
    fields |= {
        "stock": ColumnSpec(type="varchar"),
        "title": ColumnSpec(type="varchar", max_length=65),
        "colour": ColumnSpec(type="json"),
    }
    other = replace(spec, fields=fields, dim=384, metric="L2", model="hash@2")
    with pytest.raises(FatalError) as refused:
        backend.store.ensure(other)
    message = str(refused.value)
    for part in (
        f"collection '{spec.name}'",
        "its vectors have 8 dimensions, the model makes 384",
        "its metric is COSINE, not L2",
        "its vectors were made by hash@1, not by hash@2",
        "its field 'stock' is int64, the contract wants varchar(4096)",
        "its field 'title' is varchar(64), the contract wants varchar(65)",
        "it has no field 'colour' (json)",
        "it has a field 'price' that the contract does not name",
        "another `collection`",
    ):
        assert part in message
    assert not backend.store.ensure(spec)
    assert backend.store.stored(spec.name, [one.id])


def drop(backend: Backend, collection: str) -> None:
    """Drop a collection, as an operator might."""
    if backend.kind == "memory":
        backend.store.drop(collection)
    else:
        backend.store._client._client.drop_collection(collection)


def test_a_collection_keeps_its_identity(backend: Backend):
    store, spec, other = backend.store, spec_of(next(_names)), spec_of(next(_names), fields={})
    store.ensure(spec)
    store.ensure(other)
    identity = store.identity(spec.name)
    assert re.fullmatch(IDENTITY[backend.kind], identity)
    assert store.identity(other.name) != identity
    store.upsert(spec.name, [entity("1")])
    store.ensure(spec)
    assert store.identity(spec.name) == identity
    if backend.section is not None:
        with closing(MilvusStore(backend.section)) as again:
            assert again.identity(spec.name) == identity
            again.ensure(spec)
            assert again.identity(spec.name) == identity
    drop(backend, other.name)


def test_a_collection_made_anew_has_another_identity(backend: Backend):
    store, spec = backend.store, spec_of(next(_names))
    store.ensure(spec)
    identity = store.identity(spec.name)
    drop(backend, spec.name)
    with pytest.raises(FatalError, match=spec.name):
        store.identity(spec.name)
    store.ensure(spec)
    assert differ(store.identity(spec.name), identity)
    drop(backend, spec.name)


def test_the_identity_and_the_model_do_not_disturb_each_other(backend: Backend):
    model = "org/name; collection 0123456789abcdef0123456789abcdef@1; collection x"
    store, spec = backend.store, spec_of(next(_names), model=model)
    store.ensure(spec)
    store.ensure(spec)
    assert re.fullmatch(IDENTITY[backend.kind], store.identity(spec.name))
    with pytest.raises(FatalError, match="were made by org/name"):
        store.ensure(replace(spec, model="org/name"))
    drop(backend, spec.name)


@REAL_MILVUS
def test_a_collection_from_before_there_were_identities(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
):
    store, spec = backend.store, spec_of(next(_names))
    client = store._client._client
    create = client.create_collection

    def as_before(name, *, schema, properties, **options):
        schema._description = f"Kept equal to SQL tables by Rowvec; vectors by {spec.model}"
        create(name, schema=schema, properties={"rowvec.model": spec.model}, **options)

    monkeypatch.setattr(client, "create_collection", as_before)
    store.ensure(spec)
    monkeypatch.undo()
    store.ensure(spec)
    assert not re.match("[0-9a-f]{32}", store.identity(spec.name))
    with pytest.raises(FatalError, match="were made by hash@1, not by hash@2"):
        store.ensure(replace(spec, model="hash@2"))
    store.upsert(spec.name, [entity("1")])
    assert store.count(spec.name) == 1
    drop(backend, spec.name)


@pytest.mark.parametrize(
    ("description", "model", "identity"),
    [
        (
            "vectors by hash@1; collection 0123456789abcdef0123456789abcdef",
            "hash@1",
            "0123456789abcdef" * 2,
        ),
        ("vectors by hash@1", "hash@1", ""),
        ("vectors by hash@1; collection 0123", "hash@1; collection 0123", ""),
        ("vectors by somebody", "somebody", ""),
        ("nothing of Rowvec's", "", ""),
    ],
)
def test_a_server_that_forgets_properties_has_the_description(
    mortal, monkeypatch: pytest.MonkeyPatch, description: str, model: str, identity: str
):
    store, _ = mortal
    client = store._client._client
    describe = client.describe_collection

    def without_properties(*args, **options):
        about = {**describe(*args, **options), "properties": {}}
        return about | {"description": f"Kept equal to SQL tables by Rowvec; {description}"}

    monkeypatch.setattr(client, "describe_collection", without_properties)
    found = store._client.describe("mortal")
    assert (found.model, found.identity) == (model, identity)
    assert store.identity("mortal") == identity


@REAL_MILVUS
def test_a_collection_whose_rows_expire_is_refused(backend: Backend):
    store, spec = backend.store, spec_of(next(_names), fields={})
    client = store._client._client
    store.ensure(spec)
    client.alter_collection_properties(spec.name, {"collection.ttl.seconds": 3600})
    with pytest.raises(FatalError, match="drops each row after 3600 seconds"):
        store.ensure(spec)
    client.alter_collection_properties(spec.name, {"collection.ttl.seconds": 0})
    store.ensure(spec)
    drop(backend, spec.name)


def test_fields_tells_what_is_mirrored(backend: Backend, shared: str):
    found = backend.store.fields(shared)
    assert found.keys() == COLUMNS.keys()
    assert {name: spec.type for name, spec in found.items()} == {
        name: spec.type for name, spec in COLUMNS.items()
    }
    assert found["title"].max_length == 64


def test_extra_fields_are_accepted_where_the_contract_says_so(backend: Backend):
    store, spec = backend.store, spec_of(next(_names))
    store.ensure(spec)
    store.upsert(spec.name, [entity("1")])
    fewer = {name: column for name, column in COLUMNS.items() if name != "price"}
    columns = {name: value for name, value in FULL.items() if name != "price"}
    if not store.nullable:
        with pytest.raises(FatalError, match="'price' that the contract does not name and that"):
            store.ensure(replace(spec, fields=fewer, extra_fields=True))
        return
    assert not store.ensure(replace(spec, fields=fewer, extra_fields=True))
    assert store.fields(spec.name).keys() == COLUMNS.keys()
    store.upsert(spec.name, [entity("2", columns=columns), entity("3")])
    prices = {row["id"]: row["price"] for row in store.scan(spec.name, ["price"])}
    assert prices == {"items:1#0": 0.1, "items:2#0": None, "items:3#0": 0.1}
    for wrong in ({**columns, "more": 1}, {n: v for n, v in columns.items() if n != "stock"}):
        with pytest.raises(FatalError, match="differ in: "):
            store.upsert(spec.name, [entity("4", columns=wrong)])
    store.ensure(spec)
    with pytest.raises(FatalError, match="differ in: price"):
        store.upsert(spec.name, [entity("4", columns=columns)])


def test_a_store_that_cannot_add_fields_says_what_to_do(backend: Backend):
    store = MemoryStore(can_add_fields=False) if backend.kind == "memory" else backend.store
    spec = spec_of(next(_names), extra_fields=True)
    assert not store.can_add_fields
    store.ensure(spec)
    store.add_field(spec.name, "stock", ColumnSpec(type="int64"))  # exists: nothing to do
    with pytest.raises(FatalError, match=r"Milvus 2\.6") as refused:
        store.add_field(spec.name, "colour", ColumnSpec(type="varchar"))
    assert "`columns`" in refused.value.hint
    store.upsert(spec.name, [entity("1")])
    assert store.fields(spec.name).keys() == COLUMNS.keys()


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_other_metrics(backend: Backend, metric: str):
    spec = spec_of(next(_names), metric=metric, fields={})
    backend.store.ensure(spec)
    near, far = np.eye(DIM, dtype=np.float32)[0], np.eye(DIM, dtype=np.float32)[1]
    backend.store.upsert(
        spec.name,
        [entity("near", vector=near, columns={}), entity("far", vector=far, columns={})],
    )
    hits = backend.store.search(spec.name, near, 2)
    scores = {"IP": [1.0, 0.0], "L2": [0.0, 2.0]}[metric]
    assert [(hit.row_key, round(hit.score, 5)) for hit in hits] == [
        ("items:near", scores[0]),
        ("items:far", scores[1]),
    ]


def test_a_collection_that_is_not_there(backend: Backend):
    one = entity("1")
    calls = [
        lambda: backend.store.stored("nowhere", [one.id]),
        lambda: backend.store.vectors("nowhere", [one.id]),
        lambda: backend.store.entities("nowhere", [one.id]),
        lambda: backend.store.delete("nowhere", [one.id]),
        lambda: backend.store.delete_older("nowhere", "items", one.version),
        lambda: backend.store.fields("nowhere"),
        lambda: backend.store.add_field("nowhere", "more", ColumnSpec(type="int64")),
        lambda: backend.store.count("nowhere"),
        lambda: backend.store.identity("nowhere"),
        lambda: backend.store.search("nowhere", one.vector, 3),
        lambda: list(backend.store.scan("nowhere")),
        lambda: backend.store.upsert("nowhere", [one]),
    ]
    for call in calls:
        with pytest.raises(FatalError, match="nowhere"):
            call()


# Searching


@pytest.fixture(scope="module")
def zoo(backend: Backend) -> str:
    name = next(_names)
    backend.store.ensure(spec_of(name))
    backend.store.upsert(
        name,
        [
            entity(
                f"animal {number}",
                number,
                vector=np.eye(DIM, dtype=np.float32)[0] + number * np.eye(DIM, dtype=np.float32)[1],
                columns={**FULL, "title": "cat" if number % 2 else "dog", "stock": number},
            )
            for number in range(1, 21)
        ],
    )
    return name


def test_search_finds_the_nearest_first(backend: Backend, zoo: str):
    hits = backend.store.search(zoo, np.eye(DIM, dtype=np.float32)[0], 3)
    assert [hit.id for hit in hits] == [f"items:animal%20{n}#0" for n in (1, 2, 3)]
    first = hits[0]
    assert first.score == pytest.approx(1 / 2**0.5, abs=1e-5)
    assert (first.text, first.table) == ("text of 1", "items")
    assert (first.row_key, first.version) == ("items:animal%201", "0000000000000001")
    assert first.columns == {**FULL, "title": "cat", "stock": 1}


def test_search_with_a_filter_and_fields(backend: Backend, zoo: str):
    query = np.eye(DIM, dtype=np.float32)[0]
    hits = backend.store.search(zoo, query, 2, 'title == "dog" and stock > 5', ["stock"])
    assert [hit.columns for hit in hits] == [{"stock": 6}, {"stock": 8}]
    assert backend.store.search(zoo, query, 5, "stock in [100]") == []
    assert len(backend.store.search(zoo, query, 1_000)) == 20


@pytest.mark.parametrize("text", ["stock >>> 3", "colour == 3", "stock >"])
def test_a_filter_that_is_not_understood(backend: Backend, zoo: str, text: str):
    with pytest.raises(FatalError) as refused:
        backend.store.search(zoo, vector_of(1), 3, text)
    assert refused.value.subject == f"filter '{text}'"


def test_a_query_of_another_length(backend: Backend, zoo: str):
    with pytest.raises(FatalError, match="8"):
        backend.store.search(zoo, vector_of(1)[:5], 3)


# Connections


@REAL_MILVUS
def test_another_connection_finds_all_of_it(backend: Backend, fresh: str):
    assert backend.section is not None
    one = entity("1")
    backend.store.upsert(fresh, [one])
    with closing(MilvusStore(backend.section)) as other:
        assert [hit.id for hit in other.search(fresh, one.vector, 3)] == [one.id]
        assert other.stored(fresh, [one.id]) == {one.id: Stored(one.version, one.text_hash)}
        assert not other.ensure(spec_of(fresh))
        other.upsert(fresh, [entity("2")])
    assert backend.store.count(fresh) == 2


@REAL_MILVUS
def test_delete_older_sees_what_another_connection_just_wrote(backend: Backend, fresh: str):
    assert backend.section is not None
    with closing(MilvusStore(backend.section)) as other:
        for version in range(1, 6):
            rows = [row_of("items", n, version) for n in range(50)]
            backend.store.upsert(fresh, rows)
            other.delete_older(fresh, "items", Version(f"{version + 1:016x}"))
            assert backend.store.count(fresh) == 0


def test_lanes_may_write_at_once(backend: Backend, fresh: str):
    errors: list[BaseException] = []

    def lane(number: int) -> None:
        try:
            for start in range(0, 200, 20):
                keys = range(number * 200 + start, number * 200 + start + 20)
                backend.store.upsert(fresh, [entity(str(key), key) for key in keys])
        except BaseException as error:  # reported by the assertion below
            errors.append(error)

    lanes = [
        threading.Thread(target=lane, args=(n,)) for n in range(backend.store.max_writers or 4)
    ]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    assert errors == []
    assert len(contents(backend, fresh)) == 200 * len(lanes)


def test_milvus_lite_has_one_writer(backend: Backend):
    wanted = {"memory": None, "lite": 1, "lite-server": 1, "server": None}
    assert backend.store.max_writers == wanted[backend.kind]


def test_old_servers_hold_no_null(backend: Backend):
    assert backend.store.nullable == (backend.kind != "server")


@REAL_MILVUS
def test_a_database_that_is_not_there(backend: Backend):
    assert backend.section is not None
    missing = backend.section.model_copy(update={"database": "nowhere"})
    with closing(MilvusStore(missing)) as store:
        with pytest.raises(FatalError, match="nowhere") as refused:
            store.ledger().read()
        assert refused.value.hint == "Create the database, or correct milvus.database"


@pytest.mark.timeout(60)
def test_nothing_listens_there():
    with pytest.raises(RetriableError, match="127"):
        MilvusStore(MilvusSection(uri=f"http://127.0.0.1:{free_port()}"))


@pytest.mark.timeout(60)
def test_something_else_listens_there(tmp_path):
    """A server that accepts and stays silent ends the attempt at the deadline."""
    with create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RetriableError, match="127"):
            MilvusStore(MilvusSection(uri=uri, request_timeout_s=1))


@pytest.fixture
def mortal(tmp_path) -> Iterator[tuple[MilvusStore, str]]:
    """A store with a server of its own, and the server's URI."""
    with lite_server(tmp_path / "data") as uri:
        section = MilvusSection(uri=uri, request_timeout_s=2)
        with closing(MilvusStore(section)) as store:
            store.ensure(spec_of("mortal"))
            yield store, uri


@pytest.mark.timeout(60)
def test_a_server_that_dies_is_told_quickly_and_never_blamed_on_a_record(tmp_path):
    server = lite_server(tmp_path)
    uri = server.__enter__()
    with closing(MilvusStore(MilvusSection(uri=uri, request_timeout_s=2))) as store:
        store.ensure(spec_of("mortal"))
        store.upsert("mortal", [entity("1")])
        server.__exit__(None, None, None)
        calls = [
            lambda: store.upsert("mortal", [entity("2")]),
            lambda: store.delete("mortal", [entity("1").id]),
            lambda: store.stored("mortal", [entity("1").id]),
            lambda: store.entities("mortal", [entity("1").id]),
            lambda: store.delete_older("mortal", "items", Version("f")),
            lambda: store.search("mortal", vector_of(1), 3),
            lambda: list(store.scan("mortal")),
            lambda: store.ensure(spec_of("mortal")),
        ]
        for call in calls:
            with pytest.raises(RetriableError):
                call()


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_a_server_that_hangs_ends_the_call_at_its_deadline(tmp_path):
    server = lite_server(tmp_path)
    uri = server.__enter__()
    pid = server.gen.gi_frame.f_locals["process"].pid
    try:
        with closing(MilvusStore(MilvusSection(uri=uri, request_timeout_s=1))) as store:
            store.ensure(spec_of("mortal"))
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(RetriableError, match="DEADLINE_EXCEEDED"):
                store.upsert("mortal", [entity("1")])
            os.kill(pid, signal.SIGCONT)
            store.upsert("mortal", [entity("1")])
            assert store.count("mortal") == 1
    finally:
        os.kill(pid, signal.SIGCONT)
        server.__exit__(None, None, None)


def test_delete_older_ends_when_what_it_deletes_stays(mortal, monkeypatch: pytest.MonkeyPatch):
    store, _ = mortal
    store.upsert("mortal", [entity("1")])
    monkeypatch.setattr(store._client, "delete", lambda *_: None)
    with pytest.raises(RetriableError, match="there again after they were deleted"):
        store.delete_older("mortal", "items", Version("f"))


def test_a_collection_made_anew_under_the_writer_is_not_blamed_on_a_record(mortal):
    store, uri = mortal
    other = MilvusClient(uri, dedicated=True)
    other.drop_collection("mortal")
    with pytest.raises(FatalError):
        store.upsert("mortal", [entity("1")])
    with closing(MilvusStore(MilvusSection(uri=uri))) as second:
        second.ensure(spec_of("mortal", dim=4))
    with pytest.raises(FatalError, match="its vectors have 4 dimensions, the model makes 8"):
        store.upsert("mortal", [entity("1")])
    other.close()


def test_a_creation_that_was_cut_short_is_completed(mortal):
    _, uri = mortal
    other = MilvusClient(uri, dedicated=True)
    other.release_collection("mortal")
    other.drop_index("mortal", "vector")
    other.close()
    with closing(MilvusStore(MilvusSection(uri=uri))) as second:
        assert second.ensure(spec_of("mortal"))
        second.upsert("mortal", [entity("1")])
        assert len(second.search("mortal", vector_of(1), 3)) == 1


def test_a_collection_that_was_released_is_loaded_for_the_reader(mortal):
    store, uri = mortal
    store.upsert("mortal", [entity("1")])
    with closing(MilvusClient(uri, dedicated=True)) as other:
        other.release_collection("mortal")
        assert store.stored("mortal", [entity("1").id])
        other.release_collection("mortal")
        assert len(list(store.scan("mortal"))) == 1


HOLD = """
import sys
from operators.contract.sections import MilvusSection
from operators.milvus.store import MilvusStore
store = MilvusStore(MilvusSection(uri=sys.argv[1]))
print("holds", flush=True)
sys.stdin.read()
"""


def test_a_lite_directory_is_held_by_one_process_and_freed_by_close(tmp_path):
    path = str(tmp_path / "milvus.db")
    section = MilvusSection(uri=path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        with pytest.raises(FatalError) as refused:
            MilvusStore(section)
        assert path in refused.value.subject
        assert "milvus-lite server" in refused.value.hint
        holder.communicate()
    assert holder.returncode == 0
    first, second = MilvusStore(section), MilvusStore(section)
    first.ensure(spec_of("kept"))
    first.upsert("kept", [entity("1")])
    first.close()
    assert second.count("kept") == 1
    second.close()
    second.close()
    with closing(MilvusStore(section)) as again:
        assert again.stored("kept", [entity("1").id])


def test_a_lite_path_that_is_a_file(tmp_path):
    (tmp_path / "milvus.db").write_text("no directory")
    with pytest.raises(FatalError, match="cannot be opened"):
        MilvusStore(MilvusSection(uri=str(tmp_path / "milvus.db")))


@pytest.mark.timeout(60)
def test_a_proxy_is_not_asked_for_what_runs_on_this_machine(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    section = MilvusSection(uri=str(tmp_path / "milvus.db"), request_timeout_s=5)
    with closing(MilvusStore(section)) as store:
        assert store.ensure(spec_of("there"))
    with lite_server(tmp_path / "data") as uri:
        for address in (uri, uri.replace("127.0.0.1", "localhost")):
            with closing(MilvusStore(MilvusSection(uri=address, request_timeout_s=5))) as store:
                assert not store.find("nowhere")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, ""),
        ({"http_proxy": "http://127.0.0.1:1"}, "the proxy of http_proxy"),
        ({"https_proxy": "http://127.0.0.1:1"}, "the proxy of https_proxy"),
        ({"http_proxy": "http://127.0.0.1:1", "no_proxy": "other,.invalid"}, ""),
    ],
)
def test_a_proxy_is_named_where_a_server_does_not_answer(
    variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
):
    for variable in ("http_proxy", "https_proxy", "grpc_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(RetriableError) as error:
        MilvusStore(MilvusSection(uri="http://milvus.invalid:19530", request_timeout_s=1))
    assert ("no_proxy" in error.value.hint) == bool(told)
    assert told in error.value.hint


@pytest.mark.parametrize(
    ("section", "subject"),
    [
        ({"uri": "http://milvus.example:19530", "token": "root:Milvus"}, "milvus.token"),
        ({"uri": "https://10.1.2.3:19530", "token": "root:Milvus"}, "milvus.token"),
        ({"uri": "http://127.0.0.1:19530", "ca_file": "/ca.pem"}, "milvus.ca_file"),
        ({"uri": "https://127.0.0.1:19530", "ca_file": "/nowhere/ca.pem"}, "milvus.ca_file"),
        ({"uri": "https://127.0.0.1:19530", "ca_file": "/"}, "milvus.ca_file"),
        ({"uri": "https://127.0.0.1:19530", "ca_file": __file__}, "milvus.ca_file"),
        ({"uri": "localhost:19530"}, "milvus.uri"),
        ({"uri": "milvus.example:19530"}, "milvus.uri"),
        ({"uri": "  "}, "milvus.uri"),
        ({"uri": "~nobody-of-this-name/milvus.db"}, "milvus.uri"),
        ({"uri": "a\0b"}, "milvus.uri"),
        ({"uri": "http://[::1]:19530"}, "milvus.uri"),
        ({"uri": "http://127.0.0.1:19530/one", "database": "two"}, "milvus.uri"),
    ],
)
def test_addresses_that_are_refused(section: dict, subject: str):
    with pytest.raises(FatalError) as refused:
        MilvusStore(MilvusSection(**section))
    assert refused.value.subject == subject
