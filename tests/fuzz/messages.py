"""Messages that Debezium really sent, contracts for their tables, and damage of both.

`test_fuzz_decoder.py` sends them from bytes to a rendered row, `whole_way.py` through a whole flow.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path as File
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from operators.codec.logical_types import Logical
from operators.contract.table import UNAVAILABLE
from operators.errors import RecordError
from operators.kafka.reader import NEW_KEY_HEADER, OLD_KEY_HEADER
from tests import captured

MAX_VALUE_BYTES = 8_000
"""Longer messages are left out: each takes the time of many short ones and finds nothing more."""

OLD_DATA = File(__file__).parent.parent / "data" / "debezium"


# Messages to damage.


class Sample(NamedTuple):
    topic: str
    key: bytes | None
    value: bytes | None
    other_key: bytes | None = None


def hand_made() -> Iterator[Sample]:
    """Messages of connectors without captured ones, by their documentation."""
    lsn = "00000027:00000758:0003"
    blocks: list[dict[str, Any]] = [
        {"connector": "sqlserver", "change_lsn": lsn, "commit_lsn": lsn, "event_serial_no": 1},
        {"connector": "db2", "change_lsn": None, "commit_lsn": lsn, "snapshot": "true"},
        {"connector": "oracle", "scn": "1513734", "commit_scn": "1513754", "ssn": 0},
        {"connector": "oracle", "scn": "1513734", "commit_scn": None, "snapshot": "last"},
        {"connector": "vitess", "vgtid": "[]"},
    ]
    row = {"id": 1, "title": "a", "price": {"scale": 2, "value": "JwY="}, "n": 1.5}
    for block in blocks:
        source = {"ts_ms": 1_700_000_000_000, "schema": "public", "table": "t", **block}
        for op, before, after in (
            ("c", None, row),
            ("u", row, row),
            ("d", row, None),
            ("t", None, None),
        ):
            value = {"before": before, "after": after, "source": source, "op": op, "ts_ms": 1}
            yield Sample("made.public.t", b'{"id":1}', orjson.dumps(value))
    document = '{"_id":{"$oid":"59"},"a":{"$numberLong":"5"},"d":{"$date":5},"l":[{"$binary":"","$type":"0"}]}'
    source = {"connector": "mongodb", "ts_ms": 1_700_000_000_000, "ord": 1, "collection": "c"}
    for op, text in (("c", document), ("u", document), ("u", None), ("d", None)):
        value = {"after": text, "updateDescription": None, "op": op, "source": source}
        yield Sample("mongo.db.c", b'{"id":"{\\"$oid\\":\\"59\\"}"}', orjson.dumps(value))
    nothing = {"event_count": 1, "data_collections": []}
    for key, about_no_row in (
        ({"serverName": "x"}, {"ts_ms": 1}),
        ({"id": "1"}, {"status": "END", "id": "1", **nothing}),
        ({"prefix": "p"}, {"op": "m", "source": source, "message": {"prefix": "p", "content": ""}}),
        ({"databaseName": "d"}, {"source": source, "ddl": "DROP TABLE t", "tableChanges": []}),
    ):
        yield Sample("made.public.t", orjson.dumps(key), orjson.dumps(about_no_row))


def single_messages() -> Iterator[Sample]:
    for path in sorted(OLD_DATA.glob("schemas_*.*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            record = json.loads(line)
            raw_key, value = (record[n] and record[n].encode() for n in ("key", "value"))
            yield Sample(record["topic"], raw_key, value)


def captured_messages() -> Iterator[Sample]:
    for variant in captured.variants():
        for case in captured.cases(variant):
            for message in case.messages:
                headers = dict(message.headers)
                other = headers.get(OLD_KEY_HEADER) or headers.get(NEW_KEY_HEADER)
                yield Sample(message.topic, message.key, message.value, other)


@cache
def samples() -> tuple[Sample, ...]:
    """One message of each kind: by topic, key, and the value without its numbers and texts."""
    found: dict[Any, Sample] = {}
    for sample in (*hand_made(), *single_messages(), *captured_messages()):
        if len(sample.value or b"") <= MAX_VALUE_BYTES:
            kind = (sample.topic, re.sub(rb'[-0-9.]+|"[^"]{9,}"', b"", sample.value or b"")[:3_000])
            found.setdefault((*kind, (sample.key or b"")[:9], sample.other_key is None), sample)
    return tuple(found.values())


@cache
def topics() -> tuple[tuple[Sample, ...], ...]:
    """The samples by topic; hand-made ones are drawn as often as all captured ones together."""
    by_topic: dict[str, list[Sample]] = {}
    for sample in samples():
        by_topic.setdefault(sample.topic, []).append(sample)
    made = [tuple(by_topic.pop(topic)) for topic in ("made.public.t", "mongo.db.c")]
    others = [tuple(each) for each in by_topic.values()]
    return (*others, *made * (len(others) // 4))


# Contracts.


class Registry:
    """A framed decoder: JSON after the first byte; some values get Python's own types, as in Avro."""

    TYPED: Sequence[Any] = (
        Decimal("12.30"),
        Decimal("NaN"),
        Decimal("-Infinity"),
        Decimal("1e99999"),
        date.min,
        date.max,
        datetime.min,
        datetime.max,
        datetime(2024, 1, 2, 3, 4, 5, 678_901, UTC),
        time.max,
        timedelta.max,
        timedelta.min,
        b"\xde\xad",
        UUID(int=5),
        float("nan"),
        2**70,
        "\ud800",
    )

    def __init__(self, types: dict[str, Logical] | None) -> None:
        self._types = types

    def decode(self, raw: bytes, topic: str, *, key: bool) -> tuple[Any, dict[str, Logical] | None]:
        try:
            value = orjson.loads(raw[1:])
        except orjson.JSONDecodeError:
            raise RecordError(subject=topic, cause="no schema") from None
        if isinstance(value, dict) and isinstance(value.get("payload"), dict):
            value = value["payload"]
        return self._typed(value, len(raw)), self._types

    def _typed(self, value: Any, at: int) -> Any:
        """Replace the value of every seventh name by one of another type."""
        if not isinstance(value, dict):
            return value
        return {
            name: self.TYPED[(at + n) % len(self.TYPED)]
            if (at + n) % 7 == 0 and not isinstance(inner, dict)
            else self._typed(inner, at + n)
            for n, (name, inner) in enumerate(value.items())
        }


ENCODINGS = "decimal(2) date-days date-iso time-us time-iso timestamp-ms timestamp-us timestamp-ns"
ENCODINGS += " timestamp-iso bytes-base64 bytes-hex json"
TYPES = ("varchar", "int64", "int32", "double", "float", "bool", "json")
LOGICALS = [
    Logical("decimal", scale=2),
    Logical("variable decimal"),
    Logical("date", "days"),
    Logical("time", "us"),
    Logical("timestamp", "ms"),
    Logical("zoned timestamp", "iso"),
    Logical("interval", "us"),
    Logical("bytes", "base64"),
    Logical("bits"),
    Logical("float"),
    Logical("array", parts=(("", Logical("float")),)),
    Logical("map", parts=(("", Logical("date", "days")),)),
    Logical("struct", parts=(("a", Logical("decimal")),)),
]
CONDITIONS = [
    {"equals": "x"},
    {"equals": 5},
    {"equals": True},
    {"one_of": [1, "1", "2024-01-02"]},
    {"none_of": ["x", 2.5]},
    {"null": False},
    {"at_least": "2020-01-01"},
    {"at_most": 1e9},
    {"at_least": 0},
]


def columns_of_sample(sample: Sample) -> tuple[list[str], list[str]]:
    """The columns of a sample's key and row; made-up ones if it has none."""
    found: list[list[str]] = []
    for raw in (sample.key, sample.value):
        value = orjson.loads(raw or b"{}")
        value = value.get("payload") or value
        row = value.get("after") or value.get("before") or value
        if isinstance(row, str):
            row = orjson.loads(row)
        found.append([name for name in row if not name.startswith("__") and "{" not in name])
    key, row_columns = found
    return key or row_columns[:2] or ["id"], row_columns or ["id"]


def table_for(
    sample: Sample, draw: random.Random
) -> tuple[dict[str, Any], dict[str, Logical] | None]:
    """A table for this sample's topic, which uses some of every option that a contract has."""
    key, columns = columns_of_sample(sample)
    encodings = ENCODINGS.split()
    some = draw.sample(columns, min(len(columns), draw.randint(1, 6)))
    typed = columns if draw.random() < 0.2 else [c for c in columns if c not in key]
    by_field = {f"f{n}": column for n, column in enumerate(some)}
    table: dict[str, Any] = {
        "topic": sample.topic,
        "name": draw.choice(["t", "odd: name"]),
        "collection": "c",
        "key": key,
        "key_from": "row" if draw.random() < (0.9 if sample.key is None else 0.1) else "record",
        "text": " ".join(f"{{{column}}}" for column in draw.sample(columns, min(len(columns), 2))),
        "columns": {
            column: {
                "type": draw.choice(TYPES),
                "field": field,
                "max_length": draw.choice([5, 4_096, 65_535]),
            }
            for field, column in by_field.items()
        },
        "shape": draw.choice(["auto"] * 8 + ["envelope", "unwrapped"]),
        "unavailable_value": draw.choice([UNAVAILABLE, UNAVAILABLE, "hex:2d2d"]),
        "empty_text": draw.choice(["keep", "skip"]),
        "defaults": {columns[0]: "nothing"},
        "encodings": {c: draw.choice(encodings) for c in typed if draw.random() < 0.3},
        "drift": {
            "added": draw.choice(["ignore"] * 8 + ["dead-letter", "halt"]),
            "missing": draw.choice(["null"] * 3 + ["dead-letter", "halt"]),
            "retyped": draw.choice(["null"] * 3 + ["dead-letter", "halt"]),
        },
        "masks": {},
    }
    if draw.random() < 0.2:
        table["filter"] = [
            {"column": draw.choice(columns), **condition}
            for condition in draw.sample(CONDITIONS, 2)
        ]
    if draw.random() < 0.1:
        table["soft_delete"] = draw.choice(columns)
    for column in columns:
        if draw.random() < 0.15:
            redact = {"redact": [r"\d{2,}", r"[\w.]+@[\w.]+"]}
            table["masks"][column] = "hmac" if column in key else draw.choice(["hmac", redact])
    types = {c: draw.choice(LOGICALS) for c in typed if draw.random() < 0.4}
    return table, types if draw.random() < 0.5 else None


# Damage.

DEEP = "[" * 1_100 + "]" * 1_100


def deep(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


ODD: Sequence[Any] = (
    *(None, True, False, 0, 1, -1, 7.5, -0.0, 1e308, 5e-324, 2**31, 2**53 + 1, 2**63 - 1, 2**63),
    *(
        2**64 - 1,
        -(2**63),
        "",
        " ",
        "0",
        "-1",
        "--5",
        "1e999999",
        "9" * 30,
        "9" * 5_000,
        "٣",
        "x" * 70_000,
    ),
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "infinity",
        "null",
        "true",
        "t",
        "c",
        "u",
        "r",
        "d",
        "m",
        "BEGIN",
    ),
    *(
        "\x00",
        "é" * 400,
        "🎉",
        "ß,:%#",
        "<ÿ>",
        "{",
        '{"a":[1,{"b":"@"}]}',
        '"\\ud800"',
        "[NaN]",
        DEEP,
    ),
    *(
        "2024-01-02",
        "2024-01-02T03:04:05.678901Z",
        "+999999-12-31",
        "-0044-03-15",
        "838:59:59",
        "24:00",
    ),
    *(
        "AQ==",
        "A",
        "/////w==",
        "00ff",
        "[1,2]",
        '["1","2"]',
        '[null,"5"]',
        '["1"]',
        "binlog.000009",
    ),
    *("00000027:00000758:0003", "first", "incremental", UNAVAILABLE, "--", "postgresql", "mysql"),
    *(
        "oracle",
        "sqlserver",
        "db2",
        "mongodb",
        "vitess",
        "struct",
        "array",
        "map",
        "bytes",
        "int64",
    ),
    *([], {}, [None], [[]], {"": {}}, {"a": None}, [UNAVAILABLE], [*UNAVAILABLE.encode()]),
    *(
        {"scale": 2, "value": "AQ=="},
        {"scale": -131_072, "value": "fw=="},
        {"scale": 10**9, "value": "AQ=="},
    ),
    *(
        {"scale": "x", "value": 5},
        {"$numberLong": "x"},
        {"$numberDouble": "-Infinity"},
        {"$oid": [1]},
    ),
    *(
        {"payload": {}},
        {"payload": {"id": 1}},
        {"schema": {}, "payload": None},
        deep(40),
        deep(480),
        deep(1_000),
    ),
    *(
        {"type": "bytes", "field": "id", "name": "org.apache.kafka.connect.data.Decimal"}
        | {"parameters": {"scale": scale}}
        for scale in ("2", "-5", "x", None, "9" * 9, "70000")
    ),
    *(
        {"type": "int64", "field": "title", "name": f"io.debezium.time.{name}"}
        for name in (
            "Date",
            "MicroTimestamp",
            "NanoTime",
            "ZonedTimestamp",
            "IsoDate",
            "MicroDuration",
        )
    ),
)
NAMES = (
    *(
        "op",
        "source",
        "after",
        "before",
        "lsn",
        "sequence",
        "ts_ms",
        "payload",
        "schema",
        "id",
        "fields",
    ),
    *(
        "type",
        "name",
        "field",
        "items",
        "keys",
        "parameters",
        "scale",
        "connector",
        "snapshot",
        "status",
    ),
    *(
        "file",
        "pos",
        "commit_lsn",
        "scn",
        "commit_scn",
        "__op",
        "__deleted",
        "__lsn",
        "__source_sequence",
    ),
    *("ddl", "tableChanges", "event_count", "data_collections", "title", "", "\x00", "x" * 300),
)


def dumped(value: Any) -> bytes | None:
    """A value as JSON, or almost JSON; None if it is nested too deep."""
    try:
        return orjson.dumps(value)
    except TypeError:  # nested too deep, too large a number, or a lone surrogate
        try:
            return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
        except RecursionError:
            return None


class Damage:
    """Changes messages, by bytes and by values; the seed determines everything."""

    def __init__(self, seed: int, by_bytes: float, changes: int) -> None:
        self.draw = random.Random(seed)
        self._by_bytes = by_bytes
        self._changes = changes

    def of(self, raw: bytes | None) -> bytes | None:
        draw = self.draw
        if raw is None or draw.random() < 0.02:
            return draw.choice((None, b"", b"null", b"{}", b"\0", b"7", b"\xff", b"[]"))
        for _ in range(draw.randint(1, self._changes)):
            changed = None if draw.random() < self._by_bytes else self._by_value(raw)
            raw = self._bytes(raw) if changed is None else changed
        return raw

    def _bytes(self, raw: bytes) -> bytes:
        draw = self.draw
        at = draw.randrange(len(raw) + 1)
        length = draw.choice((1, 1, 2, 8, 60))
        match draw.randrange(7):
            case 0:  # flip a bit
                at = min(at, len(raw) - 1)
                return (
                    raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :]
                    if raw
                    else raw
                )
            case 1:  # cut off
                return raw[:at]
            case 2:  # cut out
                return raw[:at] + raw[at + length :]
            case 3:  # twice
                return raw[: at + length] + raw[at:]
            case 4:  # put in
                return raw[:at] + draw.randbytes(length) + raw[at:]
            case 5:  # splice with another
                other = draw.choice(samples()).value or b""
                return raw[:at] + other[draw.randrange(len(other) + 1) :]
            case _:  # insert a token, of JSON or not
                token = draw.choice(
                    (b"NaN", b"\\ud800", b'"', b"}", b"1e999", b"9" * 400, b"\xc3\x28", b"\0")
                )
                return raw[:at] + token + raw[at + draw.choice((0, len(token))) :]

    def _by_value(self, raw: bytes) -> bytes | None:
        """The same JSON with one value changed; None if it is not JSON."""
        mark = raw[:1] == b"\0"
        try:
            root = orjson.loads(raw[1:] if mark else raw)
        except orjson.JSONDecodeError:
            return None
        holder = {"": root}
        self._change(holder)
        changed = dumped(holder.get(""))
        return b"\0" + changed if mark and changed is not None else changed

    def _change(self, node: Any) -> None:
        """Change one value at some depth; each level is equally likely."""
        draw = self.draw
        if draw.random() < 0.95 and isinstance(node.get(""), dict | list) and node[""]:
            node = node[""]
        while True:
            names = list(node) if isinstance(node, dict) else range(len(node))
            name = draw.choice(names)
            if isinstance(node, dict) and draw.random() < 0.5:
                # Prefer the row: it is a small part of a message, but most of the code handles it.
                name = next((n for n in ("payload", "after") if node.get(n)), name)
            inner = node[name]
            if isinstance(inner, dict | list) and inner and draw.random() < 0.85:
                node = inner
                continue
            if isinstance(inner, str) and inner[:1] in ("[", "{") and draw.random() < 0.5:
                with suppress(orjson.JSONDecodeError):
                    held = {"": orjson.loads(inner)}
                    self._change(held)
                    changed = dumped(held.get(""))
                    node[name] = inner if changed is None else changed.decode(errors="replace")
                    return
            self._replace(node, name)
            return

    def _replace(self, node: Any, name: Any) -> None:
        draw = self.draw
        match draw.randrange(8):
            case 0 | 1 | 2:
                node[name] = draw.choice(ODD)
            case 3:
                del node[name]
            case 4 if isinstance(node, dict):
                node[draw.choice(NAMES)] = node.pop(name)
            case 5 if isinstance(node, dict):
                node[draw.choice(NAMES)] = draw.choice(ODD)
            case 6:
                node[name] = draw.choice(([node[name]], {"a": node[name]}, str(node[name])[:2_000]))
            case _:
                text = str(node[name])[:2_000]
                at = draw.randrange(len(text) + 1)
                node[name] = (
                    text[:at]
                    + draw.choice(("9", "-", "\udc00", "%", " ", "0" * 40))
                    + text[at + 1 :]
                )
