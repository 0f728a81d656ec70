"""Comparing winners with the store, in cases that the histories of `tests/properties` do not reach."""

import numpy as np
import pytest

from flows.sync import collection_specs
from operators.changes.events import Delete, KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.rows import PartialRow, Row, Winner
from operators.changes.text_hash import text_hash
from operators.changes.version import (
    NO_POSITION,
    Version,
    borrowed,
    make_version,
    place_of_partition,
)
from operators.retry import RetryPolicy
from operators.stages.look_up import LookUp
from operators.stages.meeting import Places
from operators.stages.window import Window
from operators.state.version_map import VersionMap
from operators.store.protocol import Entity, entity_id
from operators.telemetry import Telemetry
from tests.changes import TOPIC, contract, table
from tests.fakes import HashEmbedder, MemoryStore

ONE, OTHER = RowKey("docs:1"), RowKey("docs:2")


def version(lsn: int, offset: int) -> Version:
    return make_version(0, f"{lsn:016x}.{lsn:016x}", offset)


def at(offset: int) -> KafkaPosition:
    return KafkaPosition(TOPIC, 0, offset)


def stored(lsn: int, offset: int) -> MemoryStore:
    """A store that holds a version of the row."""
    store = MemoryStore()
    (spec,) = collection_specs(contract().model_copy(update={"tables": (table(),)}), HashEmbedder())
    store.ensure(spec)
    vector, columns = np.ones(8, np.float32), {"kind": "page", "size": 1}
    entity = Entity(
        entity_id(ONE),
        vector,
        "text",
        text_hash("text"),
        columns,
        "docs",
        ONE,
        version(lsn, offset),
        "u",
        0,
        at(offset),
        "hash@1",
    )
    store.upsert("docs", [entity])
    return store


def came(lsn: int, offset: int) -> PartialRow:
    """A row that has got a new key."""
    return PartialRow(
        ONE,
        version(lsn, offset),
        at(offset),
        0,
        "c",
        "docs",
        {"name": "n"},
        {"kind": "page", "size": 1},
        ("doc",),
        OTHER,
        follows=version(lsn, offset),
    )


def tombstone(offset: int) -> Delete:
    return Delete(ONE, make_version(0, NO_POSITION, offset), at(offset), 0, unpositioned=True)


def snapshot_read(offset: int) -> Row:
    columns = {"kind": "page", "size": 1}
    alone = make_version(0, NO_POSITION, offset)
    return Row(
        ONE, alone, at(offset), 0, "r", "docs", "t", text_hash("t"), columns, unpositioned=True
    )


def looked_up(store: MemoryStore, row: PartialRow, fallback: Winner) -> Window:
    versions = VersionMap(whole=False, horizon_s=100, now=0)
    window = Window({ONE: row}, {}, [], set(), versions, (), unverified={ONE})
    window.fallbacks[ONE] = [fallback]
    telemetry = Telemetry()
    resolver = LookUp(
        {TOPIC: table()}, store, RetryPolicy(0.0, telemetry), telemetry, Places((), telemetry)
    )
    ((_, window),) = resolver([("000", window)])
    return window


@pytest.mark.parametrize("fallback", [tombstone, snapshot_read])
def test_a_fallback_without_a_position_is_held_against_the_store_by_its_offset(fallback) -> None:
    store = stored(lsn=4, offset=4)
    assert looked_up(store, came(6, 6), fallback(3)).fallbacks == {ONE: []}
    (kept,) = looked_up(store, came(6, 6), fallback(5)).fallbacks[ONE]
    borrows = borrowed(version(4, 4), 5, place_of_partition(TOPIC, 0))
    assert (kept.version, kept.unpositioned) == (borrows, False)


def test_fallbacks_go_with_a_row_that_the_store_has_overtaken() -> None:
    window = looked_up(stored(lsn=8, offset=8), came(6, 6), tombstone(5))
    assert (window.rows, window.fallbacks) == ({}, {})
