"""Raw values → canonical ones → text and fields. No error message quotes a value."""

import base64
import json
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.codec.logical_types import Logical, columns_of, from_encoding, logical_value
from operators.codec.text import as_text
from operators.contract.table import ColumnSpec
from operators.rendering.field_values import as_field

SECRET = "s3cret-value"

DEBEZIUM = "io.debezium.time."
CONNECT = "org.apache.kafka.connect.data."


def connect(type_: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    """A field of a struct schema, as JsonConverter writes it."""
    return {"field": "c", "type": type_, "optional": True, "name": name, "version": 1, **more}


def decimal(scale: int) -> dict[str, Any]:
    parameters = {"scale": str(scale), "connect.decimal.precision": "10"}
    return connect("bytes", CONNECT + "Decimal", parameters=parameters)


def value(field: dict[str, Any], raw: Any) -> Any:
    """The canonical value of a raw one, for a column of this schema."""
    logical = columns_of([field]).get("c")
    return raw if logical is None else logical_value(logical, raw)


def text(field: dict[str, Any], raw: Any) -> str:
    return as_text(value(field, raw))


def stored(type_: str, canonical: Any, **spec: Any) -> Any:
    return as_field(canonical, ColumnSpec(type=type_, **spec))


# As PostgreSQL's connector wrote them, with the SQL that they came from.

DATE = connect("int32", DEBEZIUM + "Date")
MICRO_TIME = connect("int64", DEBEZIUM + "MicroTime")
MICRO_TIMESTAMP = connect("int64", DEBEZIUM + "MicroTimestamp")
ZONED = connect("string", DEBEZIUM + "ZonedTimestamp")
VECTOR = connect(
    "array", "io.debezium.data.DoubleVector", items={"type": "double", "optional": False}
)
TAGS = connect("array", items={"type": "string", "optional": True})
VARIABLE = connect(
    "struct",
    "io.debezium.data.VariableScaleDecimal",
    fields=[
        {"type": "int32", "optional": False, "field": "scale"},
        {"type": "bytes", "optional": False, "field": "value"},
    ],
)
BITS = connect("bytes", "io.debezium.data.Bits", parameters={"length": "8"})

CAPTURED = {
    "numeric(10,2) 12.34": (decimal(2), "BNI=", "12.34", "double", 12.34),
    "numeric(10,2) 99.90": (decimal(2), "JwY=", "99.90", "varchar", "99.90"),
    "numeric(10,2) -0.01": (decimal(2), "/w==", "-0.01", "double", -0.01),
    "bigint": (connect("int64"), 9007199254740993, "9007199254740993", "int64", 9007199254740993),
    "date": (DATE, 19724, "2024-01-02", "int64", 19724),
    "date before 1970": (DATE, -135081, "1600-02-29", "int32", -135081),
    "date infinity": (DATE, -2147472692, "infinity", "int64", 2**63 - 1),
    "date -infinity": (DATE, -2147472691, "-infinity", "int64", -(2**63)),
    "time": (MICRO_TIME, 11045500000, "03:04:05.5", "int64", 11045500000),
    "time -838:59:59": (MICRO_TIME, -3020399000000, "-838:59:59", "int64", -3020399000000),
    "time 24:00": (MICRO_TIME, 86400000000, "24:00:00", "int64", 86400000000),
    "timestamp": (
        MICRO_TIMESTAMP,
        1704164645678901,
        "2024-01-02T03:04:05.678901",
        "int64",
        1704164645678901,
    ),
    "timestamp before 1970": (MICRO_TIMESTAMP, -1, "1969-12-31T23:59:59.999999", "int64", -1),
    "timestamp -infinity": (
        MICRO_TIMESTAMP,
        -9223372036832400000,
        "-infinity",
        "int64",
        -(2**63),
    ),
    "timestamptz": (
        ZONED,
        "2024-01-02T03:04:05.678901Z",
        "2024-01-02T03:04:05.678901Z",
        "int64",
        1704164645678901,
    ),
    "timestamptz in 1 BC": (
        ZONED,
        "0000-01-01T00:00:00.000000Z",
        "0000-01-01T00:00:00Z",
        "int64",
        -62167219200000000,
    ),
    "timestamptz infinity": (ZONED, "infinity", "infinity", "int64", 2**63 - 1),
    "jsonb": (
        connect("string", "io.debezium.data.Json"),
        '{"k": [1, 2.50, null]}',
        '{"k": [1, 2.50, null]}',
        "json",
        {"k": [1, 2.5, None]},
    ),
    "jsonb null": (connect("string", "io.debezium.data.Json"), "null", "null", "json", None),
    "jsonb string": (connect("string", "io.debezium.data.Json"), '"str"', '"str"', "json", "str"),
    "uuid": (
        connect("string", "io.debezium.data.Uuid"),
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "varchar",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ),
    "bytea": (connect("bytes"), "3q2+7w==", "3q2+7w==", "varchar", "3q2+7w=="),
    "empty bytea": (connect("bytes"), "", "", "varchar", ""),
    "double NaN": (connect("double"), "NaN", "NaN", "double", None),
    "real Infinity": (connect("float"), "Infinity", "Infinity", "float", None),
    "real -Infinity": (connect("float"), "-Infinity", "-Infinity", "double", None),
    "real": (connect("float"), 0.1, "0.1", "float", 0.1),
    "vector": (VECTOR, [1.0, 2.5, -3.0], "[1.0,2.5,-3.0]", "json", [1.0, 2.5, -3.0]),
    "text[]": (TAGS, [None, 'x,"y'], '[null,"x,\\"y"]', "json", [None, 'x,"y']),
    "enum": (
        connect("string", "io.debezium.data.Enum", parameters={"allowed": "sad,ok,happy"}),
        "happy",
        "happy",
        "varchar",
        "happy",
    ),
    "set": (
        connect("string", "io.debezium.data.EnumSet", parameters={"allowed": "x,y,z"}),
        "x,z",
        "x,z",
        "varchar",
        "x,z",
    ),
    "tinyint(1)": (connect("int16"), 1, "1", "bool", True),
    "boolean": (connect("boolean"), False, "false", "bool", False),
    "year": (connect("int32", DEBEZIUM + "Year"), 2024, "2024", "int32", 2024),
    "bit(8)": (BITS, "BQ==", "5", "int64", 5),
    "bit(12)": (BITS, "AQg=", "2049", "int64", 2049),
    "numeric": (VARIABLE, {"scale": 3, "value": "AN6t"}, "57.005", "double", 57.005),
    "interval": (connect("int64", DEBEZIUM + "MicroDuration"), -5500000, "-PT5.5S", "int64", -5500000),
    "interval in days": (connect("int64", DEBEZIUM + "NanoDuration"), 129600 * 10**9, "PT36H", "int64", 129600 * 10**6),
    "interval as a string": (
        connect("string", DEBEZIUM + "Interval"),
        "P1Y2M3DT4H5M6.78S",
        "P1Y2M3DT4H5M6.78S",
        "varchar",
        "P1Y2M3DT4H5M6.78S",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "raw", "in_text", "type_", "in_field"), CAPTURED.values(), ids=CAPTURED
)
def test_a_value_as_debezium_writes_it(field, raw, in_text, type_, in_field):
    assert text(field, raw) == in_text
    found = stored(type_, value(field, raw))
    assert found == in_field
    assert type(found) is type(in_field)
    # Any value can be text in a varchar.
    assert stored("varchar", value(field, raw)) == in_text


@pytest.mark.parametrize("field", [each[0] for each in CAPTURED.values()], ids=CAPTURED)
def test_null_is_null(field):
    assert value(field, None) is None


# The same moment in every time.precision.mode.

SAME = {
    "date": [
        (DEBEZIUM + "Date", 19724),
        (CONNECT + "Date", 19724),
        (DEBEZIUM + "IsoDate", "2024-01-02Z"),
        (DEBEZIUM + "IsoDate", "2024-01-02"),
        (DEBEZIUM + "Date", date(2024, 1, 2)),
    ],
    "time": [
        (DEBEZIUM + "Time", 11045500),
        (DEBEZIUM + "MicroTime", 11045500000),
        (DEBEZIUM + "NanoTime", 11045500000000),
        (DEBEZIUM + "IsoTime", "03:04:05.5Z"),
        (CONNECT + "Time", 11045500),
        (CONNECT + "Time", time(3, 4, 5, 500000)),
    ],
    "timestamp": [
        (DEBEZIUM + "Timestamp", 1704164645678),
        (DEBEZIUM + "MicroTimestamp", 1704164645678000),
        (DEBEZIUM + "NanoTimestamp", 1704164645678000000),
        (DEBEZIUM + "IsoTimestamp", "2024-01-02T03:04:05.678Z"),
        (CONNECT + "Timestamp", 1704164645678),
        (CONNECT + "Timestamp", datetime(2024, 1, 2, 3, 4, 5, 678000, UTC)),
        (CONNECT + "Timestamp", datetime(2024, 1, 2, 3, 4, 5, 678000)),
    ],
    "instant": [
        (DEBEZIUM + "ZonedTimestamp", "2024-01-02T03:04:05.678Z"),
        (DEBEZIUM + "ZonedTimestamp", "2024-01-02T03:04:05.678000Z"),
        (DEBEZIUM + "ZonedTimestamp", "2024-01-02T05:34:05.678+02:30"),
        (DEBEZIUM + "ZonedTimestamp", "2024-01-01T22:04:05.678-05:00"),
        (
            DEBEZIUM + "ZonedTimestamp",
            datetime(2024, 1, 2, 4, 4, 5, 678000, timezone(timedelta(hours=1))),
        ),
    ],
    "time in UTC": [
        (DEBEZIUM + "ZonedTime", "23:04:05Z"),
        (DEBEZIUM + "ZonedTime", "01:04:05+02:00"),
        (DEBEZIUM + "ZonedTime", "18:04:05-05:00"),
    ],
    "end of time": [
        (DEBEZIUM + "Timestamp", 9223372036825200),
        (DEBEZIUM + "MicroTimestamp", 9223372036825200000),
        (DEBEZIUM + "NanoTimestamp", 2**63 - 1),
        (DEBEZIUM + "IsoTimestamp", "+294247-01-10T04:00:25.2Z"),
        (CONNECT + "Timestamp", 9223372036825200),
        (DEBEZIUM + "Timestamp", "infinity"),
    ],
    "beginning of time": [
        (DEBEZIUM + "Timestamp", -9223372036832400),
        (DEBEZIUM + "MicroTimestamp", -9223372036832400000),
        (DEBEZIUM + "NanoTimestamp", -(2**63)),
        (DEBEZIUM + "IsoTimestamp", "-290308-12-21T19:59:27.6Z"),
        (CONNECT + "Timestamp", "-infinity"),
    ],
    "last of days": [
        (DEBEZIUM + "Date", -2147472692),
        (DEBEZIUM + "IsoDate", "-5877611-06-21Z"),
        (CONNECT + "Date", -2147472692),
        (DEBEZIUM + "Date", "infinity"),
    ],
    "duration": [
        (DEBEZIUM + "MicroDuration", 129600500000),
        (DEBEZIUM + "NanoDuration", 129600500000000),
        (DEBEZIUM + "MicroDuration", timedelta(days=1.5, milliseconds=500)),
    ],
}


@pytest.mark.parametrize("ways", SAME.values(), ids=SAME)
def test_a_moment_is_one_value_however_it_is_sent(ways):
    found = [value(connect("string", name), raw) for name, raw in ways]
    assert len(set(found)) == 1, found
    # A value that is canonical already stays as it is.
    assert value(connect("string", ways[0][0]), found[0]) == found[0]


# Decimals.


def unscaled(number: Decimal, scale: int) -> str:
    """A decimal as Connect writes it: base64 of the two's complement of its digits."""
    digits = int(number.scaleb(scale))
    return base64.b64encode(
        digits.to_bytes(digits.bit_length() // 8 + 1, "big", signed=True)
    ).decode()


@given(st.integers(-(10**27), 10**27), st.integers(0, 20))
def test_any_decimal_in_any_encoding(digits, scale):
    number = Decimal(digits).scaleb(-scale)
    precise = value(decimal(scale), unscaled(number, scale))
    assert precise == number
    assert precise.as_tuple().exponent == -scale
    variable = value(VARIABLE, {"scale": scale, "value": unscaled(number, scale)})
    assert variable == number
    assert logical_value(from_encoding(f"decimal({scale})"), unscaled(number, scale)) == number
    # decimal.handling.mode=string sends the same as a plain string.
    plain = f"{number:f}"
    assert as_text(precise) == as_text(variable) == stored("varchar", precise) == plain
    assert stored("double", precise) == stored("double", plain) == float(plain)
    if number == int(number) and abs(number) < 2**63:
        assert stored("int64", precise) == stored("int64", plain) == int(number)
    else:
        with pytest.raises(ValueError, match=r"fraction|out of range"):
            stored("int64", precise)


def test_decimals_of_every_size_are_exact():
    digits = int(Decimal("123456789" * 1_000))
    raw = base64.b64encode(digits.to_bytes(4_000, "big", signed=True)).decode()
    assert text(decimal(0), raw) == "123456789" * 1_000
    assert text(decimal(8_999), raw) == "1." + ("123456789" * 1_000)[1:]
    assert text(decimal(-3), "AQ==") == "1000"
    assert text(decimal(50), "/w==") == "-0." + "0" * 49 + "1"


@pytest.mark.parametrize(
    ("raw", "shown"), [(12.3, "12.30"), (7, "7.00"), (-0.01, "-0.01"), (0.125, "0.125")]
)
def test_a_decimal_as_a_number_has_its_zeros(raw, shown):
    # JsonConverter with decimal.format=NUMERIC.
    assert text(decimal(2), raw) == shown


@pytest.mark.parametrize("raw", [Decimal("12.30"), b"\x04\xce"])
def test_a_decimal_as_avro_brings_it(raw):
    assert text(decimal(2), raw) == "12.30"


# Which columns need a conversion.


def test_only_columns_that_need_it_are_named():
    fields = [
        {**field, "field": name}
        for name, field in {
            "id": connect("int64"),
            "title": connect("string"),
            "published": connect("boolean"),
            "meta": connect("string", "io.debezium.data.Json"),
            "uid": connect("string", "io.debezium.data.Uuid"),
            "mood": connect("string", "io.debezium.data.Enum"),
            "born": connect("int32", DEBEZIUM + "Year"),
            "tags": TAGS,
            "emb": VECTOR,
            "place": connect(
                "struct",
                "io.debezium.data.geometry.Point",
                fields=[{"field": "wkb", "type": "bytes"}, {"field": "x", "type": "double"}],
            ),
            "price": decimal(2),
            "day": DATE,
        }.items()
    ]
    assert columns_of(fields) == {
        "price": Logical("decimal", scale=2),
        "day": Logical("date", "days"),
    }


def test_a_schema_that_is_made_already_and_none_at_all():
    made = {"price": Logical("decimal", scale=2)}
    assert columns_of(made) is made
    assert not columns_of(None)


@pytest.mark.parametrize(
    "schema",
    [
        "text",
        [1],
        [None],
        [{}],
        [{"field": [], "type": "bytes"}],
        [{"field": "c", "type": []}],
        [{"field": "c", "type": "int32", "name": []}],
        [{"field": "c", "type": "array"}],
        [{"field": "c", "type": "array", "items": None}],
        [{"field": "c", "type": "map", "values": {"type": "double"}}],
        [connect("bytes", CONNECT + "Decimal")],
        [connect("bytes", CONNECT + "Decimal", parameters={"scale": SECRET})],
        [connect("bytes", CONNECT + "Decimal", parameters={"scale": None})],
        [decimal(10**9)],
    ],
)
def test_a_schema_that_is_none(schema):
    with pytest.raises(ValueError, match=r"schema|scale") as caught:
        columns_of(schema)
    assert SECRET not in str(caught.value)


def test_a_schema_that_never_ends():
    schema: dict[str, Any] = {"type": "double"}
    for _ in range(5_000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ValueError, match="schema"):
        columns_of([{**schema, "field": "c"}])


# Nested values.


def nested(field: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in field.items() if name != "field"}


@pytest.mark.parametrize(
    ("field", "raw", "shown"),
    [
        (connect("array", items=nested(DATE)), [19724, None], ["2024-01-02", None]),
        (connect("array", items=nested(decimal(2))), ["BNI="], ["12.34"]),
        (connect("array", items={"type": "double"}), [1.5, "NaN", "Infinity"], [1.5, None, None]),
        (connect("array", items={"type": "bytes"}), ["3q2+7w=="], ["3q2+7w=="]),
        (connect("array", items=nested(connect("array", items=nested(DATE)))), [[0]], [["1970-01-01"]]),
        (
            connect("map", keys={"type": "string"}, values=nested(ZONED)),
            {"a": "2024-01-02T04:04:05+01:00"},
            {"a": "2024-01-02T03:04:05Z"},
        ),
        (connect("map", keys={"type": "int32"}, values={"type": "double"}), [[1, 0.5]], [[1, 0.5]]),
        (
            connect("struct", "inner", fields=[DATE, connect("string") | {"field": "d"}]),
            {"c": 19724, "d": "x"},
            {"c": "2024-01-02", "d": "x"},
        ),
    ],
)  # fmt: skip
def test_values_in_arrays_maps_and_structs(field, raw, shown):
    assert stored("json", value(field, raw)) == shown
    assert json.loads(text(field, raw)) == shown


# Values that do not fit their schema.

WRONG = [SECRET, "", "12", 7, -1.5, math.nan, math.inf, True, 2**70, [], [SECRET], {}, {"scale": 1}]
SCHEMAS = [
    decimal(2),
    VARIABLE,
    DATE,
    MICRO_TIME,
    MICRO_TIMESTAMP,
    ZONED,
    BITS,
    connect("bytes"),
    connect("double"),
    *(connect("string", DEBEZIUM + n) for n in ("IsoDate", "IsoTime", "ZonedTime", "NanoDuration")),
    connect("array", items=nested(DATE)),
    connect("map", keys={"type": "string"}, values=nested(DATE)),
    connect("struct", fields=[DATE]),
]


@pytest.mark.parametrize(
    ("field", "raw"),
    [
        *((field, SECRET) for field in SCHEMAS),
        *((field, [SECRET]) for field in SCHEMAS),
        (DATE, True),
        (DATE, 1.5),
        (DATE, "19724"),
        (DATE, datetime(2024, 1, 2)),
        (MICRO_TIME, "infinity"),
        (decimal(2), ""),
        (decimal(2), "BNI"),
        (decimal(2), "B NI="),
        (decimal(2), base64.b64encode(bytes(70_000)).decode()),
        (VARIABLE, {"scale": 2}),
        (VARIABLE, {"scale": 10**9, "value": "AQ=="}),
        (VARIABLE, {"scale": SECRET, "value": "AQ=="}),
        (connect("double"), "nan"),
        (ZONED, "2024-02-30T00:00:00Z"),
        (ZONED, 1704164645678),
    ],
)
def test_a_value_that_is_not_what_its_schema_says(field, raw):
    with pytest.raises(ValueError, match="it is no ") as caught:
        value(field, raw)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_part_that_is_not_what_its_schema_says_is_the_one_to_name():
    with pytest.raises(ValueError, match="it is no date in days"):
        value(connect("array", items=nested(DATE)), [19724, SECRET])


# Without a schema: the contract's encodings.


@pytest.mark.parametrize(
    ("encoding", "raw", "shown"),
    [
        ("decimal(2)", "BNI=", "12.34"),
        ("date-days", 19724, "2024-01-02"),
        ("date-iso", "2024-01-02Z", "2024-01-02"),
        ("time-ms", 11045500, "03:04:05.5"),
        ("time-us", 11045500000, "03:04:05.5"),
        ("time-ns", 11045500000000, "03:04:05.5"),
        ("time-iso", "03:04:05.500", "03:04:05.5"),
        ("time-iso", "03:04:05.500Z", "03:04:05.5Z"),
        ("timestamp-ms", 1704164645678, "2024-01-02T03:04:05.678"),
        ("timestamp-us", 1704164645678901, "2024-01-02T03:04:05.678901"),
        ("timestamp-ns", 1704164645678901000, "2024-01-02T03:04:05.678901"),
        ("timestamp-iso", "2024-01-02T03:04:05.6780", "2024-01-02T03:04:05.678"),
        ("timestamp-iso", "2024-01-02T04:04:05+01:00", "2024-01-02T03:04:05Z"),
        ("bytes-base64", "3q2+7w==", "3q2+7w=="),
        ("bytes-hex", "deadbeef", "3q2+7w=="),
        ("json", '{"a": 1}', '{"a": 1}'),
    ],
)
def test_an_encoding_of_the_contract(encoding, raw, shown):
    assert as_text(logical_value(from_encoding(encoding), raw)) == shown


@pytest.mark.parametrize("encoding", ["", "date", "date-ms", "decimal", "decimal(x)", "year-ms"])
def test_no_encoding(encoding):
    with pytest.raises(ValueError, match=r"encoding|scale"):
        from_encoding(encoding)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(WRONG),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(SCHEMAS),
    JSON,
    st.sampled_from(["varchar", "int64", "int32", "double", "float", "bool", "json"]),
)
def test_whatever_comes_is_stored_or_refused(field, raw, type_):
    try:
        canonical = value(field, raw)
        as_text(canonical)
        found = stored(type_, canonical)
    except ValueError:
        return
    # A value that a store cannot write would stop the flow.
    json.dumps(found, allow_nan=False)
