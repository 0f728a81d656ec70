"""Any bytes in a topic become a valid event and row, or a RecordError.

Messages that Debezium really sent are damaged a thousand times per example, by bytes and by JSON
values, and go through the code from the router to the rendered row. `ROWVEC_TEST_INPUTS` says
how many inputs there are:

    ROWVEC_TEST_INPUTS=1000000 python -m pytest --timeout 0 tests/properties/test_fuzz_decoder.py

A failure shows its input as a call of `Path.feed` that can be pasted into a test.
"""

import logging
import os
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path as File
from typing import Any

import hypothesis.strategies as st
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from operators.changes.events import Delete, Ignored, KafkaPosition, Tombstone, Truncate, Upsert
from operators.changes.row_key import RowKey, key_prefix, key_values
from operators.changes.rows import PartialRow, Row
from operators.codec.decoder import Decoder
from operators.codec.logical_types import Logical
from operators.codec.row_keys import MAX_ROW_KEY_BYTES
from operators.contract.sections import MaskingSection
from operators.contract.table import TableSection
from operators.errors import FatalError, RecordError
from operators.milvus.rows import to_rows
from operators.milvus.schema import collection_shape
from operators.rendering.masks import Masker
from operators.rendering.renderer import Renderer
from operators.store.protocol import CollectionSpec, Entity
from tests.fuzz.messages import (
    NAMES,
    ODD,
    Damage,
    Registry,
    Sample,
    samples,
    table_for,
    topics,
)

INPUTS = int(os.environ.get("ROWVEC_TEST_INPUTS", "50000"))
PER_EXAMPLE = 1_000

MAX_VALUE_BYTES = 8_000
"""Longer messages are left out: each takes the time of many short ones and finds nothing more."""

OLD_DATA = File(__file__).parent.parent / "data" / "debezium"
AT = KafkaPosition("topic", 0, 7)
VERSION = re.compile(
    r"[0-9a-f]{4}(\.[0-9a-f]{16}|\.[0-9a-f]{16}\.[0-9a-f]{16}|\.[0-9a-f]{32})\.0{15}7\.0[0-9a-f]{23}"
)
SAFE_KEY = re.compile(r"[A-Za-z0-9_.~%:,-]*")


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """Silence the log: columns change thousands of times, and pytest would keep every line."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_there_is_something_to_damage():
    assert len(samples()) > 500
    assert len(topics()) > 20


# From bytes to a row.


class Path:
    """From bytes to the row that the store would get, for one table; checks each step's guarantees."""

    def __init__(self, table: dict[str, Any], types: dict[str, Logical] | None = None) -> None:
        self.made_with = (table, types)
        self.table = TableSection.model_validate(table)
        masker = Masker(self.table, MaskingSection.model_validate({"hmac_key": "k" * 32}))
        masks = {
            column: lambda value, column=column: masker.value(column, value)
            for column in self.table.key
            if column in self.table.masks
        }
        self.decoder = Decoder(self.table, None if types is None else Registry(types), masks)
        self.renderer = Renderer(self.table, masker)
        fields = {spec.field or name: spec for name, spec in self.table.columns.items()}
        self.shape = collection_shape(
            CollectionSpec(self.table.collection, fields, 2, "COSINE", "m")
        )
        self.halts = "halt" in self.table.drift.model_dump().values()
        self.outcomes: dict[str, int] = {}

    def feed(
        self, raw_key: bytes | None, raw_value: bytes | None, other_key: bytes | None = None
    ) -> None:
        truncates = self.decoder.truncates(raw_value)
        try:
            keys = self.decoder.row_keys(raw_key, raw_value)
        except RecordError as error:
            self.check_error(error)
            assert not truncates, "every shard would tell it"
            return
        assert len(set(keys)) == len(keys) <= 2
        for row_key in keys:
            self.check_key(row_key)
        for row_key in keys or (RowKey(""),):
            try:
                event = self.decoder.event(row_key, raw_value, AT, other_key)
            except RecordError as error:
                self.check_error(error)
                assert keys or not truncates
                continue
            self.check_event(row_key, event)
            if not keys:
                assert truncates == isinstance(event, Truncate)

    def check_error(self, error: RecordError | FatalError) -> None:
        self.count("error")
        assert error.cause
        assert len(str(error)) < 3_000

    def check_key(self, row_key: str) -> None:
        assert row_key.startswith(key_prefix(self.table.name))
        assert SAFE_KEY.fullmatch(row_key)
        assert len(row_key) <= MAX_ROW_KEY_BYTES
        assert len(key_values(self.table, RowKey(row_key))) == len(self.table.key)

    def check_event(self, row_key: str, event: Any) -> None:
        self.count(type(event).__name__)
        match event:
            case Ignored():
                assert event.reason in ("heartbeat", "transaction", "message", "ddl", "tombstone")
                return
            case Tombstone():
                assert event.row_key == row_key != ""
                return
            case Truncate():
                assert event.table == self.table.name
            case Upsert() | Delete():
                assert event.row_key == row_key != ""
        assert VERSION.fullmatch(event.version)
        assert 0 <= event.source_ts_ms < 2**63
        if isinstance(event, Upsert):
            self.render(event)

    def render(self, event: Upsert) -> None:
        try:
            rendered = self.renderer.render(event)
        except RecordError as error:
            self.check_error(error)
            return
        except FatalError as error:
            assert self.halts
            self.check_error(error)
            return
        self.count(type(rendered).__name__)
        assert rendered.version == event.version
        if isinstance(rendered, PartialRow):
            assert rendered.missing
            assert all(text is None or isinstance(text, str) for text in rendered.texts.values())
        elif isinstance(rendered, Row):
            self.store(rendered)

    def store(self, row: Row) -> None:
        entity = Entity(
            f"{row.row_key}#0",
            np.zeros(2, np.float32),
            row.text,
            row.text_hash,
            row.columns,
            row.table,
            row.row_key,
            row.version,
            row.op,
            row.source_ts_ms,
            row.position,
            "m",
            spans=row.spans,
        )
        with suppress(RecordError):
            ((fields, _),) = to_rows([entity], self.shape, json_arrays=True)
            # Text that is sent to the store must be valid UTF-8.
            assert all(value.encode() or True for value in fields.values() if type(value) is str)
            self.count("stored")

    def count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


def path_for(sample: Sample, draw: random.Random) -> Path:
    """A path for this sample's topic."""
    return Path(*table_for(sample, draw))


def run(seed: int, by_bytes: float, changes: int, inputs: int = PER_EXAMPLE) -> dict[str, int]:
    """Feed damaged messages; an exception that is not Rowvec's fails the test and shows the input."""
    damage = Damage(seed, by_bytes, changes)
    draw = damage.draw
    outcomes: dict[str, int] = {}
    for _ in range(inputs // 50):
        fed = draw.choice(topics())
        path = path_for(
            draw.choice([s for s in fed if b'"after":{' in (s.value or b"")] or fed), draw
        )
        for number in range(50):
            raw_key, value, other = draw.choice(fed)[1:]
            if path.made_with[1] is not None and draw.random() < 0.7:
                raw_key = raw_key and b"\0" + raw_key
                value = value and b"\0" + value
            if number:  # the first is undamaged
                raw_key = damage.of(raw_key) if draw.random() < 0.3 else raw_key
                value = damage.of(value)
                other = damage.of(raw_key) if draw.random() < 0.1 else other
            try:
                path.feed(raw_key, value, other)
            except Exception as error:
                shown = f"Path(*{path.made_with!r}).feed({raw_key!r}, {value!r}, {other!r})"
                raise AssertionError(f"{type(error).__name__}: {error}\n{shown}") from error
        for outcome, count in path.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
    return outcomes


@given(st.integers(0, 2**64), st.sampled_from([0.0, 0.1, 0.3, 1.0]), st.sampled_from([1, 1, 2, 6]))
@settings(
    max_examples=max(1, INPUTS // PER_EXAMPLE),
    deadline=None,
    # No shrinking: a smaller seed is not a simpler input.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_exception_but_a_record_error(seed, by_bytes, changes):
    run(seed, by_bytes, changes)


def test_the_damage_leaves_enough_whole():
    """A fuzzer whose inputs all fail to parse would prove nothing."""
    outcomes = run(7, by_bytes=0.2, changes=1, inputs=4_000)
    for outcome in (
        "error",
        "Upsert",
        "Row",
        "stored",
        "Delete",
        "PartialRow",
        "Tombstone",
        "Ignored",
    ):
        assert outcomes.get(outcome, 0) > 10, outcomes
    assert outcomes["Row"] > 300


# Arbitrary bytes.

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
ENVELOPE_LIKE = st.recursive(
    JSON | st.sampled_from([value for value in ODD if isinstance(value, str) and len(value) < 40]),
    lambda inner: st.dictionaries(
        st.sampled_from([n for n in NAMES if len(n) < 40]), inner, max_size=5
    ),
    max_leaves=12,
)


def plain_path() -> Path:
    table = {"topic": "t", "collection": "c", "key": ["id"], "text": "{id}"}
    return Path({**table, "columns": {"title": "json"}})


@given(st.none() | st.binary(max_size=200), st.none() | st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes(raw_key, raw_value):
    plain_path().feed(raw_key, raw_value, raw_key)


@given(ENVELOPE_LIKE)
@settings(max_examples=500, deadline=None)
def test_any_json(value):
    raw = orjson.dumps(value)
    plain_path().feed(raw, raw, raw)
