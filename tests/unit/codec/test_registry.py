"""Messages whose schemas are in a registry: Avro and Protobuf come out as JSON would have."""

import base64
import contextlib
import datetime
import json
import threading
import traceback
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from confluent_kafka.schema_registry import (
    SchemaRegistryClient,
    topic_subject_name_strategy,
)
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from operators.codec.logical_types import Logical, columns_of, logical_value
from operators.codec.registry.decoder import RegistryDecoder, is_framed
from operators.codec.temporal import Moment
from operators.contract.sections import SchemaRegistrySection
from operators.errors import FatalError, RecordError, RowvecError
from operators.retry import RetryPolicy
from operators.telemetry import Telemetry
from tests import captured
from tests.avro_converter import to_avro
from tests.registry import RegistryStub

TOPIC = "app.public.docs"
SECRET = "a value that nobody may see"

Decoder = Callable[..., RegistryDecoder]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def registry() -> Iterator[RegistryStub]:
    with RegistryStub() as stub:
        yield stub


@pytest.fixture
def make() -> Iterator[Decoder]:
    made: list[RegistryDecoder] = []

    def decoder(url: str, for_s: float = 0.0, **section: Any) -> RegistryDecoder:
        retry = RetryPolicy(for_s, Telemetry(), max_wait_s=0.0)
        made.append(RegistryDecoder(SchemaRegistrySection(url=url, **section), retry))
        return made[-1]

    yield decoder
    for each in made:
        each.close()


@pytest.fixture
def decoder(registry: RegistryStub, make: Decoder) -> RegistryDecoder:
    return make(registry.url)


def context(key: bool = False) -> SerializationContext:
    return SerializationContext(TOPIC, MessageField.KEY if key else MessageField.VALUE)


@contextlib.contextmanager
def avro_serializer(stub: RegistryStub, schema: Any) -> Iterator[Any]:
    with SchemaRegistryClient({"url": stub.url, "ssl.ca.location": False}) as client:
        yield AvroSerializer(
            client,
            json.dumps(schema),
            conf={"subject.name.strategy": topic_subject_name_strategy},
        )


def as_avro(stub: RegistryStub, schema: Any, value: Any, *, key: bool = False) -> bytes:
    """The bytes that a Connect worker with AvroConverter would have sent."""
    with avro_serializer(stub, schema) as serializer:
        raw = serializer(value, context(key))
    assert isinstance(raw, bytes)
    return raw


# Avro


def connect(kind: str, name: str, **rest: Any) -> dict[str, Any]:
    return {"type": kind, "connect.version": 1, "connect.name": name, **rest}


def nullable(schema: Any) -> dict[str, Any]:
    return {"type": ["null", schema], "default": None}


def decimal(scale: int, precision: int = 20) -> dict[str, Any]:
    return connect(
        "bytes",
        "org.apache.kafka.connect.data.Decimal",
        scale=scale,
        precision=precision,
        logicalType="decimal",
        **{
            "connect.parameters": {"scale": str(scale), "connect.decimal.precision": str(precision)}
        },
    )


def record(name: str, /, **fields: Any) -> dict[str, Any]:
    listed = [
        {"name": field, **(of if isinstance(of, dict) and "default" in of else {"type": of})}
        for field, of in fields.items()
    ]
    return {"type": "record", "name": name, "namespace": TOPIC, "fields": listed}


SOURCE = record(
    "Source",
    connector="string",
    ts_ms="long",
    snapshot={
        "type": [connect("string", "io.debezium.data.Enum"), "null"],
        "default": "false",
    },
    sequence=nullable("string"),
    lsn=nullable("long"),
)
SOURCE_BLOCK = {
    "connector": "postgresql",
    "ts_ms": 1_795_350_574_154,
    "snapshot": "false",
    "sequence": '["26093288","26093288"]',
    "lsn": 2**62,
}


def envelope(**columns: Any) -> dict[str, Any]:
    return record(
        "Envelope",
        before=nullable(record("Value", **columns)),
        after=nullable(f"{TOPIC}.Value"),
        source=SOURCE,
        op="string",
        ts_ms=nullable("long"),
    )


def change(after: dict[str, Any]) -> dict[str, Any]:
    return {"before": None, "after": after, "source": SOURCE_BLOCK, "op": "c", "ts_ms": 17}


def test_an_envelope_is_the_one_that_json_would_have_brought(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    schema = envelope(
        id="long",
        title="string",
        body=nullable("string"),
        raw=nullable("bytes"),
        tags=nullable({"type": "array", "items": ["null", "string"]}),
        extra=nullable({"type": "map", "values": ["null", "string"]}),
        ratio="double",
        single="float",
    )
    after = {
        "id": -(2**63),
        "title": "Grüße",
        "body": None,
        "raw": b"\x00\xff",
        "tags": [None, "a"],
        "extra": {"k": None, "l": "v"},
        "ratio": float("nan"),
        "single": 0.1,
    }
    value, columns = decoder.decode(as_avro(registry, schema, change(after)), TOPIC, key=False)
    assert value == {
        **change({**after, "raw": "AP8=", "ratio": "NaN", "single": 0.1}),
    }
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert columns == {
        "raw": Logical("bytes", "base64"),
        "ratio": Logical("float"),
        "single": Logical("float"),
    }


MOMENTS = [
    ("int", "io.debezium.time.Date", 19_724, Moment("date", 19_724)),
    ("int", "io.debezium.time.Time", 1_500, Moment("time", 1_500_000_000)),
    ("long", "io.debezium.time.MicroTime", 1_500, Moment("time", 1_500_000)),
    ("long", "io.debezium.time.NanoTime", 1_500, Moment("time", 1_500)),
    ("long", "io.debezium.time.Timestamp", 3, Moment("timestamp", 3_000_000)),
    ("long", "io.debezium.time.MicroTimestamp", 3, Moment("timestamp", 3_000)),
    ("long", "io.debezium.time.NanoTimestamp", 3, Moment("timestamp", 3)),
    (
        "string",
        "io.debezium.time.ZonedTimestamp",
        "1970-01-01T00:00:01Z",
        Moment("timestamp", 10**9, True),
    ),
    ("string", "io.debezium.time.ZonedTime", "00:00:01Z", Moment("time", 10**9, True)),
]


@pytest.mark.parametrize(("kind", "name", "raw", "meant"), MOMENTS)
def test_debezium_s_own_types_are_told_by_connect_name(
    registry: RegistryStub, decoder: RegistryDecoder, kind: str, name: str, raw: Any, meant: Any
) -> None:
    schema = envelope(id="long", at=nullable(connect(kind, name)))
    framed = as_avro(registry, schema, change({"id": 1, "at": raw}))
    value, columns = decoder.decode(framed, TOPIC, key=False)
    assert columns is not None
    assert value["after"]["at"] == raw
    assert logical_value(columns["at"], value["after"]["at"]) == meant


CONVERTED = [
    (decimal(2), Decimal("-12.30"), Decimal("-12.30")),
    (
        decimal(2) | {"type": "fixed", "name": "Fixed", "size": 16},
        Decimal("12.30"),
        Decimal("12.30"),
    ),
    (
        {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3},
        Decimal(1),
        Decimal(1),
    ),
    ({"type": "int", "logicalType": "date"}, datetime.date(1969, 12, 31), Moment("date", -1)),
    (
        connect("int", "org.apache.kafka.connect.data.Date", logicalType="date"),
        datetime.date(1970, 1, 2),
        Moment("date", 1),
    ),
    (
        connect("int", "org.apache.kafka.connect.data.Time", logicalType="time-millis"),
        datetime.time(0, 0, 1),
        Moment("time", 10**9),
    ),
    (
        connect("long", "org.apache.kafka.connect.data.Timestamp", logicalType="timestamp-millis"),
        datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.UTC),
        Moment("timestamp", 10**9),
    ),
    (
        {"type": "long", "logicalType": "timestamp-micros"},
        datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.UTC),
        Moment("timestamp", 10**9),
    ),
    (
        {"type": "long", "logicalType": "time-micros"},
        datetime.time(0, 0, 0, 7),
        Moment("time", 7_000),
    ),
]


@pytest.mark.parametrize(("schema", "sent", "meant"), CONVERTED)
def test_logical_types_stay_as_they_were_written_and_are_told(
    registry: RegistryStub, decoder: RegistryDecoder, schema: Any, sent: Any, meant: Any
) -> None:
    framed = as_avro(registry, record("Row", it=nullable(schema)), {"it": sent})
    row, columns = decoder.decode(framed, TOPIC, key=False)
    assert columns is not None
    assert type(row["it"]) in (int, str)
    assert logical_value(columns["it"], row["it"]) == meant


@pytest.mark.parametrize("days", [2**31 - 1, -(2**31), -2_147_472_692])
def test_a_date_that_python_has_no_year_for_is_no_bad_record(
    registry: RegistryStub, decoder: RegistryDecoder, days: int
) -> None:
    name = "org.apache.kafka.connect.data.Date"
    framed = as_avro(
        registry, record("Row", day=connect("int", name, logicalType="date")), {"day": days}
    )
    assert decoder.decode(framed, TOPIC, key=False)[0] == {"day": days}


def test_a_decimal_may_have_more_scale_than_precision(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    # numeric(2, 5): Avro does not allow it, but AvroConverter writes it.
    schema = record("Row", small=decimal(5, precision=2))
    number = registry.add(f"{TOPIC}-value", json.dumps(schema))
    raw = b"\0" + number.to_bytes(4, "big") + b"\x02\x0c"
    row, columns = decoder.decode(raw, TOPIC, key=False)
    assert columns is not None
    assert logical_value(columns["small"], row["small"]) == Decimal("0.00012")


def test_nested_types_say_the_same_as_the_schema_of_json(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    variable = record("VariableScaleDecimal", scale="int", value="bytes") | {
        "namespace": "io.debezium.data",
        "connect.name": "io.debezium.data.VariableScaleDecimal",
    }
    micro = connect("long", "io.debezium.time.MicroTimestamp")
    schema = record(
        "Row",
        number=nullable(variable),
        numbers={"type": "array", "items": "io.debezium.data.VariableScaleDecimal"},
        times={"type": "map", "values": ["null", micro]},
        prices={"type": "array", "items": ["null", decimal(1)]},
        flags=nullable(connect("bytes", "io.debezium.data.Bits")),
    )
    sent = {
        "number": {"scale": 1, "value": b"\x0c"},
        "numbers": [{"scale": 0, "value": b"\x01"}],
        "times": {"a": 1, "b": None},
        "prices": [Decimal("1.5"), None],
        "flags": b"\x05",
    }
    row, columns = decoder.decode(as_avro(registry, schema, sent), TOPIC, key=False)
    assert row == {
        "number": {"scale": 1, "value": "DA=="},
        "numbers": [{"scale": 0, "value": "AQ=="}],
        "times": {"a": 1, "b": None},
        "prices": ["Dw==", None],
        "flags": "BQ==",
    }
    variable_json = {
        "type": "struct",
        "name": "io.debezium.data.VariableScaleDecimal",
        "fields": [],
    }
    assert columns == columns_of(
        [
            {**variable_json, "field": "number"},
            {"type": "array", "items": variable_json, "field": "numbers"},
            {
                "type": "map",
                "keys": {"type": "string"},
                "values": {"type": "int64", "name": "io.debezium.time.MicroTimestamp"},
                "field": "times",
            },
            {
                "type": "array",
                "items": {
                    "type": "bytes",
                    "name": "org.apache.kafka.connect.data.Decimal",
                    "parameters": {"scale": "1"},
                },
                "field": "prices",
            },
            {"type": "bytes", "name": "io.debezium.data.Bits", "field": "flags"},
        ]
    )
    assert {*columns} == {"number", "numbers", "times", "prices", "flags"}


def test_an_unwrapped_row_and_a_key_are_their_own_records(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    row_schema = record(
        "Value", id="long", price=nullable(decimal(2)), __deleted=nullable("string")
    )
    row, columns = decoder.decode(
        as_avro(registry, row_schema, {"id": 7, "price": Decimal("1.50"), "__deleted": "false"}),
        TOPIC,
        key=False,
    )
    assert row == {"id": 7, "price": "AJY=", "__deleted": "false"}
    assert columns == {"price": Logical("decimal", scale=2)}
    key_schema = record("Key", id="long", part="string")
    raw = as_avro(registry, key_schema, {"id": 7, "part": "a"}, key=True)
    assert decoder.decode(raw, TOPIC, key=True) == ({"id": 7, "part": "a"}, {})


@pytest.mark.parametrize(
    ("schema", "sent", "plain"),
    [("string", "seven", "seven"), ("long", 2**53 + 1, 2**53 + 1), ("bytes", b"\x01", "AQ==")],
)
def test_a_value_that_is_no_record_has_no_columns(
    registry: RegistryStub, decoder: RegistryDecoder, schema: str, sent: Any, plain: Any
) -> None:
    assert decoder.decode(as_avro(registry, schema, sent), TOPIC, key=True) == (plain, None)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (3, 3),
        ("x", "x"),
        (b"x", "eA=="),
        (float("inf"), "Infinity"),
        ({"raw": b"x", "all": [b"y"]}, {"raw": "eA==", "all": ["eQ=="]}),
    ],
)
def test_a_union_of_several_types_brings_the_value_alone(
    registry: RegistryStub, decoder: RegistryDecoder, value: Any, plain: Any
) -> None:
    inner = record("Inner", raw="bytes", all={"type": "array", "items": "bytes"})
    schema = record("Row", it=["null", "long", "string", "bytes", "double", inner])
    framed = as_avro(registry, schema, {"it": value})
    assert decoder.decode(framed, TOPIC, key=False)[0] == {"it": plain}


def test_a_type_that_holds_itself(registry: RegistryStub, decoder: RegistryDecoder) -> None:
    schema = record("Node", raw="bytes", next=nullable(f"{TOPIC}.Node"))
    sent = {"raw": b"a", "next": {"raw": b"b", "next": None}}
    value, columns = decoder.decode(as_avro(registry, schema, sent), TOPIC, key=False)
    assert value == {"raw": "YQ==", "next": {"raw": "Yg==", "next": None}}
    assert columns is not None
    assert columns["raw"] == Logical("bytes", "base64")


def test_schemas_that_refer_to_others(registry: RegistryStub, decoder: RegistryDecoder) -> None:
    """Also if two references lead to the same schema (a diamond)."""

    def reference(name: str) -> dict[str, Any]:
        return {"name": f"{TOPIC}.{name}", "subject": name, "version": 1}

    registry.add("Money", json.dumps(record("Money", amount=decimal(2))))
    registry.add(
        "Item", json.dumps(record("Item", price=f"{TOPIC}.Money")), references=[reference("Money")]
    )
    schema = json.dumps(record("Row", item=f"{TOPIC}.Item", paid=f"{TOPIC}.Money"))
    references = [reference("Item"), reference("Money")]
    number = registry.add(f"{TOPIC}-value", schema, references=references)
    raw = b"\0" + number.to_bytes(4, "big") + b"\x02\x0a\x02\x14"
    value, _ = decoder.decode(raw, TOPIC, key=False)
    assert value == {"item": {"price": {"amount": "Cg=="}}, "paid": {"amount": "FA=="}}
    asked = len(registry.asked)
    decoder.decode(raw, TOPIC, key=False)
    assert len(registry.asked) == asked


def test_each_message_is_read_by_the_schema_that_wrote_it(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    old = as_avro(registry, record("Row", id="long", name="string"), {"id": 1, "name": "a"})
    new = as_avro(
        registry,
        record("Row", id="long", price=nullable(decimal(1)), name=nullable("string")),
        {"id": 2, "price": Decimal("0.5"), "name": None},
    )
    for _ in range(2):
        assert decoder.decode(old, TOPIC, key=False) == ({"id": 1, "name": "a"}, {})
        value, columns = decoder.decode(new, TOPIC, key=False)
        assert value == {"id": 2, "price": "BQ==", "name": None}
        assert columns == {"price": Logical("decimal", scale=1)}


ANY = record(
    "Row",
    price=decimal(2),
    text="string",
    raw="bytes",
    real="double",
    at=connect("long", "io.debezium.time.MicroTimestamp"),
)


@given(
    number=st.integers(-(10**19), 10**19),
    text=st.text(),
    raw=st.binary(),
    real=st.floats(width=64),
    micros=st.integers(-(2**63), 2**63 - 1),
)
def test_any_row_comes_out_as_connect_s_json(
    any_registry: tuple[RegistryDecoder, Callable[[Any], bytes]],
    number: int,
    text: str,
    raw: bytes,
    real: float,
    micros: int,
) -> None:
    decoder, serialized = any_registry
    price = Decimal(number).scaleb(-2)
    sent = {"price": price, "text": text, "raw": raw, "real": real, "at": micros}
    row, columns = decoder.decode(serialized(sent), TOPIC, key=False)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert columns is not None
    assert logical_value(columns["price"], row["price"]) == price
    assert (row["text"], base64.b64decode(row["raw"]), row["at"]) == (text, raw, micros)
    assert repr(logical_value(columns["real"], row["real"])) == repr(real)


@pytest.fixture(scope="module")
def any_registry() -> Iterator[tuple[RegistryDecoder, Callable[[Any], bytes]]]:
    with pytest.MonkeyPatch.context() as patch, RegistryStub() as stub:
        patch.setenv("NO_PROXY", "127.0.0.1")
        decoder = RegistryDecoder(SchemaRegistrySection(url=stub.url), RetryPolicy(0, Telemetry()))
        with avro_serializer(stub, ANY) as serializer:
            yield decoder, lambda value: serializer(value, context())
        decoder.close()


@pytest.mark.parametrize(
    "name",
    [
        "mysql_schemas_on",
        "pg_connect_friendly_schemas_on",
        "pg_connect_schemas_on",
        "pg_connect_unwrap_schemas_on",
        "pg_schemas_on",
    ],
)
def test_every_captured_message_says_the_same_in_avro(
    registry: RegistryStub, decoder: RegistryDecoder, name: str
) -> None:
    seen = 0
    for case in captured.cases(name):
        for sent in case.messages:
            for is_key, raw in ((True, sent.key), (False, sent.value)):
                wrapped = json.loads(raw) if raw else {}
                if wrapped.keys() != {"schema", "payload"} or wrapped["schema"] is None:
                    continue  # Tombstones, and the connector's own records.
                schema, payload = wrapped["schema"], wrapped["payload"]
                text, written = to_avro(schema, payload)
                number = registry.add(sent.topic, text)
                framed = b"\0" + number.to_bytes(4, "big") + written
                assert decoder.decode(framed, sent.topic, key=is_key) == (
                    payload,
                    columns_of(row_fields(schema)),
                )
                seen += 1
    assert seen > 100


def row_fields(schema: Any) -> Any:
    fields = {field["field"]: field for field in schema["fields"]}
    return fields["after"]["fields"] if "op" in fields and "after" in fields else schema["fields"]


# Protobuf

TYPES = {
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "float": FieldDescriptorProto.TYPE_FLOAT,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
}


def message(
    name: str, nested: tuple[DescriptorProto, ...] = (), /, **fields: str
) -> DescriptorProto:
    """A message type of fields like `optional int64`, `repeated string`, `.google.type.Date`."""
    made = DescriptorProto(name=name, nested_type=nested)
    for number, (field_name, kind) in enumerate(fields.items(), 1):
        label, _, kind = kind.rpartition(" ")
        field = made.field.add(name=field_name, number=number)
        field.label = (
            FieldDescriptorProto.LABEL_REPEATED
            if label == "repeated"
            else FieldDescriptorProto.LABEL_OPTIONAL
        )
        if kind in TYPES:
            field.type = TYPES[kind]
        else:
            field.type_name = kind
        if label == "optional":
            field.proto3_optional = True
        if label in ("optional", "oneof"):
            field.oneof_index = len(made.oneof_decl)
            made.oneof_decl.add(name=f"_{field_name}")
    return made


IMPORTS = {
    "confluent.type.Decimal": "confluent/type/decimal.proto",
    "google.protobuf.Timestamp": "google/protobuf/timestamp.proto",
    "google.protobuf.Int64Value": "google/protobuf/wrappers.proto",
    "google.type.Date": "google/type/date.proto",
    "google.type.TimeOfDay": "google/type/timeofday.proto",
}


def file(*messages: DescriptorProto, name: str = "row.proto") -> FileDescriptorProto:
    return FileDescriptorProto(
        name=name,
        package="app",
        syntax="proto3",
        message_type=messages,
        dependency=sorted(set(IMPORTS.values())),
    )


def classes(
    made: FileDescriptorProto, *others: FileDescriptorProto
) -> Callable[[str], type[Message]]:
    pool = DescriptorPool()
    for path in sorted(set(IMPORTS.values())):
        pool.AddSerializedFile(Default().FindFileByName(path).serialized_pb)
    for each in (*others, made):
        pool.AddSerializedFile(each.SerializeToString())
    return lambda name: GetMessageClass(pool.FindMessageTypeByName(f"app.{name}"))


def as_protobuf(stub: RegistryStub, value: Message, *, key: bool = False) -> bytes:
    """The bytes that a Connect worker with ProtobufConverter would have sent."""
    with SchemaRegistryClient({"url": stub.url, "ssl.ca.location": False}) as client:
        serializer = ProtobufSerializer(
            type(value),
            client,
            {
                "use.deprecated.format": False,
                "subject.name.strategy": topic_subject_name_strategy,
            },
        )
        raw = serializer(value, context(key))
    assert isinstance(raw, bytes)
    return raw


def proto_envelope(sequence: str = "optional string", **columns: str) -> FileDescriptorProto:
    return file(
        message(
            "Envelope",
            (
                message("Value", **columns),
                message("Source", connector="string", sequence=sequence, lsn="optional int64"),
            ),
            before=".app.Envelope.Value",
            after=".app.Envelope.Value",
            source=".app.Envelope.Source",
            op="string",
            ts_ms="optional int64",
        )
    )


def test_a_protobuf_envelope_is_the_one_that_json_would_have_brought(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    made = classes(
        proto_envelope(
            one="oneof string",
            other="oneof string",
            id="int64",
            title="optional string",
            empty="optional string",
            missing="optional int64",
            views="uint64",
            raw="optional bytes",
            single="float",
            ratio="double",
            flag="bool",
            tags="repeated string",
            wrapped=".google.protobuf.Int64Value",
            absent=".google.protobuf.Int64Value",
        )
    )
    sent = made("Envelope")(
        op="c",
        ts_ms=17,
        source={"connector": "postgresql", "lsn": 2**62},
        after={
            "id": -(2**63),
            "title": "Grüße",
            "empty": "",
            "views": 2**64 - 1,
            "raw": b"\x00\xff",
            "single": 0.1,
            "ratio": float("-inf"),
            "tags": ["a", "b"],
            "wrapped": {"value": 2**53 + 1},
            "one": "here",
        },
    )
    value, columns = decoder.decode(as_protobuf(registry, sent), TOPIC, key=False)
    assert value == {
        "before": None,
        "after": {
            "id": -(2**63),
            "title": "Grüße",
            "empty": "",
            "missing": None,
            "views": 2**64 - 1,
            "raw": "AP8=",
            "single": 0.1,
            "ratio": "-Infinity",
            "flag": False,
            "tags": ["a", "b"],
            "wrapped": 2**53 + 1,
            "absent": None,
            "one": "here",
            "other": None,
        },
        "source": {"connector": "postgresql", "sequence": None, "lsn": 2**62},
        "op": "c",
        "ts_ms": 17,
    }
    assert columns == {
        "raw": Logical("bytes", "base64"),
        "single": Logical("float"),
        "ratio": Logical("float"),
    }


PROTO_MEANINGS = [
    (".confluent.type.Decimal", {"value": b"\xfb\x32", "scale": 2}, Decimal("-12.30")),
    (".confluent.type.Decimal", {"scale": 2}, Decimal("0.00")),
    (".google.type.Date", {"year": 1970, "month": 2, "day": 1}, Moment("date", 31)),
    (".google.type.Date", {"year": 12_024, "month": 2, "day": 29}, Moment("date", 3_672_207)),
    (
        ".google.type.TimeOfDay",
        {"hours": 23, "minutes": 59, "seconds": 1, "nanos": 5},
        Moment("time", 86_341_000_000_005),
    ),
    (
        ".google.protobuf.Timestamp",
        {"seconds": -1, "nanos": 999_000_000},
        Moment("timestamp", -1_000_000),
    ),
]


@pytest.mark.parametrize(("kind", "parts", "meant"), PROTO_MEANINGS)
def test_connect_s_types_are_messages_in_protobuf(
    registry: RegistryStub, decoder: RegistryDecoder, kind: str, parts: Any, meant: Any
) -> None:
    row = classes(file(message("Row", it=kind, none=kind, all=f"repeated {kind}")))("Row")
    sent = row(it=parts, all=[parts])
    value, columns = decoder.decode(as_protobuf(registry, sent), TOPIC, key=False)
    assert columns is not None
    assert logical_value(columns["it"], value["it"]) == meant
    assert str(logical_value(columns["it"], value["it"])) == str(meant)
    assert logical_value(columns["all"], value["all"]) == [meant]
    assert value["none"] is None


def test_maps_in_protobuf_declared_as_such_or_as_connect_makes_them(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    declared = message("DeclaredEntry", key="string", value="bytes")
    declared.options.map_entry = True
    made = message(
        "Row",
        (declared, message("ConnectEntry", key="string", value="optional bytes")),
        declared="repeated .app.Row.DeclaredEntry",
        connect="repeated .app.Row.ConnectEntry",
    )
    row = classes(file(made))("Row")
    sent = row(declared={"a": b"x"}, connect=[{"key": "b", "value": b"y"}, {"key": "c"}])
    value, columns = decoder.decode(as_protobuf(registry, sent), TOPIC, key=False)
    assert value == {"declared": {"a": "eA=="}, "connect": {"b": "eQ==", "c": None}}
    of_bytes = Logical("map", parts=(("", Logical("bytes", "base64")),))
    assert columns == {"declared": of_bytes, "connect": of_bytes}


def test_the_message_index_says_which_message_of_the_schema(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    made = classes(
        file(
            message("First", (message("Inner", a="int64"), message("Other", b="int64")), c="int64"),
            message("Second", d="int64"),
        )
    )
    sent = {"First": "c", "First.Inner": "a", "First.Other": "b", "Second": "d"}
    ids = set()
    for name, field in sent.items():
        raw = as_protobuf(registry, made(name)(**{field: 5}))
        ids.add(raw[1:5])
        assert decoder.decode(raw, TOPIC, key=False) == ({field: 5}, {})
    assert len(ids) == 1


def test_a_protobuf_key(registry: RegistryStub, decoder: RegistryDecoder) -> None:
    key = classes(file(message("Key", id="int64", part="string")))("Key")
    raw = as_protobuf(registry, key(id=0, part="a"), key=True)
    assert decoder.decode(raw, TOPIC, key=True) == ({"id": 0, "part": "a"}, {})


def test_protobuf_schemas_that_import_others(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    money = file(message("Money", amount="bytes"), name="shop/money.proto")
    item = file(message("Item", price=".app.Money"), name="shop/item.proto")
    item.dependency.append(money.name)
    row = file(message("Row", item=".app.Item", paid=".app.Money"))
    row.dependency.extend([item.name, money.name])
    sent = classes(row, money, item)("Row")(item={"price": {"amount": b"a"}}, paid={"amount": b"b"})
    raw = as_protobuf(registry, sent)
    value, _ = decoder.decode(raw, TOPIC, key=False)
    assert value == {"item": {"price": {"amount": "YQ=="}}, "paid": {"amount": "Yg=="}}
    assert any("/subjects/shop%2Fmoney.proto/versions/1" in path for path in registry.asked)


def test_an_imported_file_is_called_as_it_is_imported(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    """It does not matter which name the registry gives the file."""
    for name, imports, made in [
        ("money", [], file(message("Money", amount="bytes"), name="")),
        ("row", ["money"], file(message("Row", paid=".app.Money"), name="")),
    ]:
        made.dependency.extend(f"shop/{each}.proto" for each in imports)
        text = base64.b64encode(made.SerializeToString()).decode()
        references = [
            {"name": f"shop/{each}.proto", "subject": each, "version": 1} for each in imports
        ]
        number = registry.add(name, text, "PROTOBUF", references)
    raw = b"\0" + number.to_bytes(4, "big") + b"\0" + b"\x0a\x03\x0a\x01a"
    assert decoder.decode(raw, TOPIC, key=False)[0] == {"paid": {"amount": "YQ=="}}


def test_a_protobuf_message_that_holds_itself(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    node = classes(file(message("Node", raw="bytes", next=".app.Node")))("Node")
    raw = as_protobuf(registry, node(raw=b"a", next={"raw": b"b"}))
    value, _ = decoder.decode(raw, TOPIC, key=False)
    assert value == {"raw": "YQ==", "next": {"raw": "Yg==", "next": None}}


def test_protobuf_without_null_is_refused_for_it_makes_null_0(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    made = classes(proto_envelope(sequence="string", id="int64", views="int64"))
    raw = as_protobuf(registry, made("Envelope")(op="c", after={"id": 1}, source={}))
    for _ in range(2):
        error = refused(decoder, raw)
        assert "optional.for.nullables" in error.hint


def test_a_decimal_whose_scale_is_an_attack_is_refused(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    row = classes(file(message("Row", it=".confluent.type.Decimal")))("Row")
    refused(decoder, as_protobuf(registry, row(it={"value": b"\x01", "scale": -(2**31)})))


def test_a_registry_that_has_protobuf_as_text_only_stops_the_flow(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    row = classes(file(message("Row", id="int64")))("Row")
    raw = as_protobuf(registry, row(id=1))
    registry.text_only = True
    with pytest.raises(FatalError, match="as text only"):
        decoder.decode(raw, TOPIC, key=False)


# Bad records


def refused(decoder: RegistryDecoder, raw: bytes, *, key: bool = False) -> RecordError:
    with pytest.raises(RecordError) as caught:
        decoder.decode(raw, TOPIC, key=key)
    error = caught.value
    assert error.subject == f"{'key' if key else 'value'} of {TOPIC}"
    assert error.cause
    assert error.hint
    return error


@pytest.mark.parametrize(
    ("raw", "framed"),
    [
        (b"", False),
        (b"\0\0\0\0", False),
        (b"\0\0\0\0\1", True),
        (b"\0\0\0\0\1rest", True),
        (b"\1\0\0\0\1rest", False),
        (b'{"id": 1}', False),
        (b"null!", False),
    ],
)
def test_what_a_registry_s_serialisers_write_is_told_from_json(raw: bytes, framed: bool) -> None:
    assert is_framed(raw) is framed


@pytest.mark.parametrize("key", [True, False])
def test_bytes_without_an_id_are_a_bad_record(decoder: RegistryDecoder, key: bool) -> None:
    assert "`format`" in refused(decoder, b'{"id": 1}', key=key).hint


def test_a_schema_that_the_registry_does_not_have(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    raw = b"\0\0\0\0\1\x04"
    error = refused(decoder, raw)
    assert "schema 1" in error.cause
    assert registry.url in error.cause
    assert "`url` in [schema_registry]" in error.hint
    # The failure is not cached: a registry may know the schema a moment later.
    registry.add(f"{TOPIC}-value", json.dumps(record("Row", id="long")))
    assert decoder.decode(raw, TOPIC, key=False) == ({"id": 2}, {})


def test_a_reference_that_the_registry_does_not_have(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    lost = {"name": "app.Lost", "subject": "lost", "version": 1}
    registry.add(TOPIC, json.dumps(record("Row", it="app.Lost")), references=[lost])
    assert "or one that it refers to" in refused(decoder, b"\0\0\0\0\1\x04").cause


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("JSON", '{"type": "object"}'),
        ("AVRO", '{"type": "record", "name": "Row", "fields": [{"name": "a", "type": "Lost"}]}'),
        ("AVRO", "no JSON"),
        ("PROTOBUF", ""),
        (
            "PROTOBUF",
            base64.b64encode(
                FileDescriptorProto(
                    name="a.proto", dependency=["lost.proto"], message_type=[message("Row")]
                ).SerializeToString()
            ).decode(),
        ),
    ],
)
def test_schemas_that_are_of_no_use_make_bad_records(
    registry: RegistryStub, decoder: RegistryDecoder, kind: str, schema: str
) -> None:
    registry.add(TOPIC, schema, kind)
    refused(decoder, b"\0\0\0\0\1\0\x04")


def no_value_in(error: RowvecError) -> bool:
    shown = "".join(traceback.format_exception(error)) + repr(error)
    return SECRET not in shown and SECRET[:8] not in shown


def test_cut_and_damaged_messages_are_bad_records_that_quote_nothing(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    avro = as_avro(
        registry,
        record("Row", text="string", price=decimal(2)),
        {"text": SECRET, "price": Decimal("1.5")},
    )
    row = classes(file(message("Row", text="string", more="string")))("Row")
    protobuf = as_protobuf(registry, row(text=SECRET, more=SECRET))
    nested = protobuf[:5] + b"\x02\x02" + protobuf[6:]  # A message index that does not exist.
    for raw in (*(avro[:end] for end in range(5, len(avro))), protobuf[:-1], nested):
        assert no_value_in(refused(decoder, raw))
    assert no_value_in(refused(decoder, avro.replace(SECRET.encode(), b"\xff" * len(SECRET))))
    # A text whose length is longer than the message.
    assert no_value_in(refused(decoder, avro[:5] + b"\xff\xff\xff\xff\x0f" + SECRET.encode()))


@pytest.mark.parametrize("lack", [MemoryError(), OSError(24, "Too many open files")])
def test_what_the_process_lacks_makes_no_dead_letter_of_a_good_record(
    registry: RegistryStub, decoder: RegistryDecoder, lack: Exception
) -> None:
    raw = as_avro(registry, record("Row", text="string"), {"text": SECRET})
    assert decoder.decode(raw, TOPIC, key=False)[0] == {"text": SECRET}

    def fail(_raw: bytes) -> Any:
        raise lack

    number = int.from_bytes(raw[1:5], "big")
    decoder._readers[number] = fail
    with pytest.raises(FatalError, match="memory or files") as caught:
        decoder.decode(raw, TOPIC, key=False)
    assert no_value_in(caught.value)

    def too_deep(_raw: bytes) -> Any:
        raise RecursionError

    decoder._readers[number] = too_deep
    assert no_value_in(refused(decoder, raw))


@given(st.binary(max_size=64), st.sampled_from([1, 2]))
def test_any_bytes_are_read_or_refused(fuzzed: RegistryDecoder, rest: bytes, number: int) -> None:
    with contextlib.suppress(RecordError):
        fuzzed.decode(b"\0" + number.to_bytes(4, "big") + rest, TOPIC, key=False)


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[RegistryDecoder]:
    with pytest.MonkeyPatch.context() as patch, RegistryStub() as stub:
        patch.setenv("NO_PROXY", "127.0.0.1")
        schema = envelope(
            id="long", tags={"type": "array", "items": ["null", "string"]}, raw="bytes"
        )
        stub.add("avro", json.dumps(schema))
        made = proto_envelope(id="int64", price=".confluent.type.Decimal", day=".google.type.Date")
        stub.add("protobuf", base64.b64encode(made.SerializeToString()).decode(), "PROTOBUF")
        decoder = RegistryDecoder(SchemaRegistrySection(url=stub.url), RetryPolicy(0, Telemetry()))
        yield decoder
        decoder.close()


# Requests to the registry


ROW = record("Row", id="long")


def test_a_schema_is_fetched_once(registry: RegistryStub, decoder: RegistryDecoder) -> None:
    avro = as_avro(registry, ROW, {"id": 1})
    protobuf = as_protobuf(registry, classes(file(message("Row", id="int64")))("Row")(id=1))
    registry.asked.clear()
    seen = [decoder.decode(raw, TOPIC, key=False) for raw in [avro, protobuf] * 3]
    assert [value for value, _ in seen] == [{"id": 1}] * 6
    assert registry.asked == [
        "/schemas/ids/1",
        "/schemas/ids/2",
        "/schemas/ids/2?format=serialized",
    ]
    assert seen[0][1] is seen[2][1], "the columns are the schema's, not the message's"
    registry.failures = [500] * 10
    assert decoder.decode(avro, TOPIC, key=False) == ({"id": 1}, {})


def test_values_of_one_schema_share_nothing(
    registry: RegistryStub, decoder: RegistryDecoder
) -> None:
    raw = as_avro(registry, record("Row", raw="bytes"), {"raw": b"a"})
    first, _ = decoder.decode(raw, TOPIC, key=False)
    first["raw"] = "changed"
    assert decoder.decode(raw, TOPIC, key=False)[0] == {"raw": "YQ=="}


def test_many_threads_fetch_a_schema_once(registry: RegistryStub, decoder: RegistryDecoder) -> None:
    one = as_avro(registry, ROW, {"id": 1})
    registry.asked.clear()
    together = threading.Barrier(8)
    seen: list[Any] = []

    def read() -> None:
        together.wait()
        seen.extend(decoder.decode(one, TOPIC, key=False)[0] for _ in range(50))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [{"id": 1}] * 400
    assert registry.asked == ["/schemas/ids/1"]


@pytest.mark.parametrize("key", [True, False])
def test_apicurios_own_frame_is_called_what_it_is(decoder: RegistryDecoder, key: bool) -> None:
    with pytest.raises(RecordError, match="Apicurio's id of 8 bytes") as caught:
        decoder.decode(b"\0" + (1234).to_bytes(8, "big") + b"\2\2a", TOPIC, key=key)
    assert "apicurio.registry.as-confluent=true" in caught.value.hint


POINT = record("Point", x="double")
COLUMNS = {"id": "int", "price": connect("int", "io.debezium.time.Date"), "op": "string"}


@pytest.mark.parametrize(
    "fields",
    [
        {"after": POINT},
        {"after": POINT, "source": "string"},
        {"after": POINT, "source": record("Origin", kind="string"), "__op": "string"},
    ],
)
def test_columns_called_after_and_source_are_columns_of_the_row(
    registry: RegistryStub, decoder: RegistryDecoder, fields: dict[str, Any]
) -> None:
    """The types are those of the whole row, not those of what is in one of its columns."""
    values = {"after": {"x": 1.5}, "source": "web", "__op": "c"}
    if "__op" in fields:
        values["source"] = {"kind": "web"}  # type: ignore[assignment]
    row = {"id": 1, "price": 19_724, "op": "d", **{name: values[name] for name in fields}}
    raw = as_avro(registry, record("Value", **COLUMNS, **fields), row)
    found, types = decoder.decode(raw, TOPIC, key=False)
    assert found == row
    assert types is not None
    assert types["price"] == Logical("date", "days")


def test_a_null_of_avro_is_none(registry: RegistryStub, decoder: RegistryDecoder) -> None:
    """AvroConverter writes it for a delete that keeps the schema of the row that was."""
    raw = as_avro(registry, ["null", record("Value", id="int")], {"id": 1})
    assert decoder.decode(raw, TOPIC, key=False)[0] == {"id": 1}
    assert decoder.decode(raw[:5] + b"\0", TOPIC, key=False)[0] is None
