"""A row keeps its id, however its key is written: with a schema or without, as counts or as text."""

from decimal import Decimal
from typing import Any

import orjson
import pytest

from operators.changes.events import Delete, Ignored, KafkaPosition, Tombstone, Upsert
from operators.codec.decoder import Decoder
from operators.codec.key_types import KeyTypes
from operators.errors import RecordError
from tests.changes import TOPIC, envelope, key, table

AT = KafkaPosition(TOPIC, 0, 7)

DATE = {"type": "int32", "name": "io.debezium.time.Date"}
ISO_DATE = {"type": "string", "name": "io.debezium.time.IsoDate"}
MICROS = {"type": "int64", "name": "io.debezium.time.MicroTimestamp"}
MILLIS = {"type": "int64", "name": "io.debezium.time.Timestamp"}
ISO_STAMP = {"type": "string", "name": "io.debezium.time.IsoTimestamp"}
ZONED = {"type": "string", "name": "io.debezium.time.ZonedTimestamp"}
PLAIN = {"type": "string"}
INT = {"type": "int32"}
DOUBLE = {"type": "double"}


def decimal(scale: int) -> dict[str, Any]:
    return {
        "type": "bytes",
        "name": "org.apache.kafka.connect.data.Decimal",
        "parameters": {"scale": str(scale)},
    }


def written(value: Any, schema: dict[str, Any] | None = None) -> bytes:
    """A Kafka key."""
    if schema is None:
        return key(id=value)
    fields = [{**schema, "field": "id"}]
    return orjson.dumps({"schema": {"type": "struct", "fields": fields}, "payload": {"id": value}})


def ids(*keys: bytes, **changed: Any) -> list[tuple[str, ...]]:
    """The rows that each key names, one after the other."""
    decoder = Decoder(table(**changed))
    return [decoder.row_keys(raw, None) for raw in keys]


SAME = {
    "a date that loses its schema": ("docs:2024-01-02", (19_724, DATE), (19_724, None)),
    "a date as text": ("docs:2024-01-02", (19_724, DATE), ("2024-01-02", ISO_DATE)),
    "a date as text without a schema": ("docs:2024-01-02", (19_724, DATE), ("2024-01-02", None)),
    "a text that becomes a count": ("docs:2024-01-02", ("2024-01-02", ISO_DATE), (19_724, DATE)),
    "another unit": (
        "docs:1970-01-01T00%3A00%3A01.5",
        (1_500_000, MICROS),
        (1_500, MILLIS),
        ("1970-01-01T00:00:01.500Z", ISO_STAMP),
        (1_500_000, None),
    ),
    "a decimal that loses its schema": ("docs:12.30", ("BM4=", decimal(2)), ("BM4=", None)),
    "a decimal as text": ("docs:12.30", ("BM4=", decimal(2)), ("12.30", PLAIN), ("12.3", PLAIN)),
    "a text that becomes a decimal": ("docs:12.30", ("12.30", PLAIN), ("BM4=", decimal(2))),
    "another scale": ("docs:12.30", ("BM4=", decimal(2)), ("MAw=", decimal(3))),
    "a number that becomes a decimal": ("docs:7", (7, INT), ("Bw==", decimal(0))),
    "a text that gets a schema": ("docs:a-b", ("a-b", None), ("a-b", PLAIN), ("a-b", None)),
    "base64 that gets a schema": ("docs:BM4%3D", ("BM4=", None), ("BM4=", decimal(2))),
    "a number that gets a schema": ("docs:7", (7, None), (7, INT), (7, None)),
    "a number as text": ("docs:7", (7, None), ("7", None), (7, INT)),
    "a double": ("docs:1.5", (1.5, None), (1.5, DOUBLE), (1.5, None)),
    "a zoned text": (
        "docs:2024-01-02T03%3A04%3A05.5Z",
        ("2024-01-02T04:04:05.500+01:00", ZONED),
        ("2024-01-02T03:04:05.5Z", None),
    ),
    "a zoned text that gets a schema": (
        "docs:2024-01-02T03%3A04%3A05.500Z",
        ("2024-01-02T03:04:05.500Z", None),
        ("2024-01-02T03:04:05.500Z", ZONED),
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_a_row_keeps_its_id(case):
    shown, *keys = SAME[case]
    assert ids(*(written(value, schema) for value, schema in keys)) == [(shown,)] * len(keys)


@pytest.mark.parametrize(
    ("encoding", "keys", "shown"),
    [
        (
            "date-days",
            [(19_724, None), (19_724, DATE), ("2024-01-02", ISO_DATE)],
            "docs:2024-01-02",
        ),
        ("decimal(2)", [("BM4=", None), ("BM4=", decimal(2)), ("MAw=", decimal(3))], "docs:12.30"),
        (
            "timestamp-iso",
            [("1970-01-01T00:00:00Z", None), ("1970-01-01T00:00:00Z", ISO_STAMP)],
            "docs:1970-01-01T00%3A00%3A00Z",
        ),
        ("bytes-hex", [("0aff", None)], "docs:Cv8%3D"),
    ],
)
def test_the_contracts_encodings_name_the_row(encoding, keys, shown):
    found = ids(*(written(v, s) for v, s in keys), encodings={"id": encoding})
    assert found == [(shown,)] * len(keys)


CONTRADICTIONS = {
    "a count that was a plain number": ((7, INT), (7, DATE), "was a plain value at first"),
    "a text that was a number": ((19_724, None), ("2024-01-02", None), "not written as number"),
    "a text with a schema that was a number": ((19_724, None), ("2024-01-02", ISO_DATE), "number"),
    "a number that was text": (("12.30", None), (12.3, None), "not written as text"),
    "a double that was a decimal": (("BM4=", decimal(2)), (12.3, DOUBLE), "type float now"),
    "a decimal that its scale does not hold": (
        ("BM4=", decimal(2)),
        ("MA0=", decimal(3)),
        "decimal",
    ),
    "a text that is no number": (("BM4=", decimal(2)), ("twelve", PLAIN), "a plain value now"),
    "a timestamp that was a date": ((19_724, DATE), (19_724, MILLIS), "type timestamp in ms now"),
    "a boolean that was a number": ((1, None), (True, None), "not written as number"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_key_that_cannot_be_the_same_is_refused(case):
    first, second, cause = CONTRADICTIONS[case]
    decoder = Decoder(table())
    decoder.row_keys(written(*first), None)
    with pytest.raises(RecordError) as caught:
        decoder.row_keys(written(*second), None)
    assert cause in caught.value.cause
    assert "would get other ids" in caught.value.cause
    assert "schemas.enable" in caught.value.hint
    assert str(second[0]) not in str(caught.value) or second[0] in (7, True)
    # The rows before are as they were.
    assert decoder.row_keys(written(*first), None)


# Whole numbers that turn out to count days or a unit of time.


@pytest.mark.parametrize(
    ("schema", "count", "moved"),
    [
        (DATE, 19_724, "docs:2024-01-02"),
        (MILLIS, 1_500, "docs:1970-01-01T00%3A00%3A01.5"),
        (MICROS, 1_500_000, "docs:1970-01-01T00%3A00%3A01.5"),
        ({"type": "int32", "name": "io.debezium.time.Time"}, 1_500, "docs:00%3A00%3A01.5"),
    ],
)
def test_an_id_moves_and_takes_what_was_stored_along(schema, count, moved):
    decoder = Decoder(table())
    first = f"docs:{count}"
    assert decoder.row_keys(written(count), None) == (first,)
    change = envelope("u", 9, {"id": count, "name": "n", "doc": "d", "kind": "k", "size": 1})
    for raw in (written(count, schema), written(count), written(count, schema)):
        former, row = decoder.row_keys(raw, change)
        assert (former, row) == (first, moved)
        delete, upsert = (decoder.event(each, change, AT) for each in (former, row))
        assert isinstance(delete, Delete)
        assert isinstance(upsert, Upsert)
        assert (delete.row_key, upsert.row_key) == (first, moved)
        assert delete.version == upsert.version
        assert type(delete.row_key) is str  # it is kept in recovery files
    gone = [decoder.event(each, None, AT) for each in decoder.row_keys(written(count), None)]
    assert gone == [Tombstone(first, AT), Tombstone(moved, AT)]  # type: ignore[arg-type]
    assert all(type(each.row_key) is str for each in gone if isinstance(each, Tombstone))


def test_one_record_makes_one_dead_letter_while_ids_move():
    decoder = Decoder(table())
    decoder.row_keys(written(5), None)
    former, row = decoder.row_keys(written(5, DATE), b'{"op":"x","source":{}}')
    assert isinstance(decoder.event(former, b'{"op":"x","source":{}}', AT), Ignored)
    with pytest.raises(RecordError):
        decoder.event(row, b'{"op":"x","source":{}}', AT)


def test_ids_in_the_row_itself_move_too():
    decoder = Decoder(table(key_from="row"))
    assert decoder.row_keys(None, envelope("c", 1, {"id": 5})) == ("docs:5",)
    fields = [{"field": "after", "fields": [{**DATE, "field": "id"}]}]
    raw = orjson.dumps(
        {"schema": {"fields": fields}, "payload": orjson.loads(envelope("u", 2, {"id": 5}))}
    )
    assert decoder.row_keys(None, raw) == ("docs:5", "docs:1970-01-06")


# What the ledger keeps.


@pytest.mark.parametrize("case", SAME)
def test_the_next_process_goes_on_with_what_was_learned(case):
    shown, *keys = SAME[case]
    for cut in range(1, len(keys)):
        before, after = KeyTypes({}), KeyTypes({})
        for value, schema in keys[:cut]:
            assert Decoder(table(), key_types=before).row_keys(written(value, schema), None) == (
                shown,
            )
        after.adopt(before.codes)
        for value, schema in keys[cut:]:
            assert Decoder(table(), key_types=after).row_keys(written(value, schema), None) == (
                shown,
            )


def test_a_moved_id_is_still_known_after_a_restart():
    before, after = KeyTypes({}), KeyTypes({})
    first = Decoder(table(), key_types=before)
    first.row_keys(written(5), None)
    first.row_keys(written(5, DATE), None)
    after.adopt(before.codes)
    second = Decoder(table(), key_types=after)
    assert second.row_keys(written(6), None) == ("docs:6", "docs:1970-01-07")


def test_encodings_that_a_contract_gets_later_move_ids_as_well():
    section = table(encodings={"id": "date-days"})
    decoder = Decoder(section)
    decoder.key_types.adopt({"id": "written number"})
    assert decoder.row_keys(written(5), None) == ("docs:5", "docs:1970-01-06")


def test_the_database_and_the_message_name_one_row():
    types = KeyTypes({})
    types.adopt({"id": "decimal||2"})
    assert types.value("id", Decimal("12.3"), None) == Decimal("12.30")
