"""Compares two captures of one variant, ignoring what differs in every run."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tests.captured import Case, Message, Variant

_VOLATILE = frozenset(
    {"ts_ms", "ts_us", "ts_ns", "lsn", "sequence", "txId", "xmin", "runId", "pos", "id"}
    | {"__lsn", "__source_ts_ms", "__source_sequence", "total_order", "data_collection"}
)
"""Fields of envelopes and metadata that are ignored; the columns of tables are all compared."""

_UNCOUNTED = ("__debezium-heartbeat", ".transaction", ".debezium_signal")
"""Topics whose number of messages depends on the duration of the run."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-(open|close)")

_ROWS = frozenset({"before", "after"})


def differences(one: Variant, other: Variant) -> list[str]:
    """The differences in the cases that both captures have, as `case, topic, key: what`.

    Log positions, times, offsets and transaction ids are ignored, and so are topics that only one of
    them has, for instance those of a table that was added since.
    """
    others = {case.name: case for case in other.cases}
    topics = _topics(one) & _topics(other)
    return [
        f"{case.name}, {difference}"
        for case in one.cases
        if case.name in others
        for difference in _of_case(case, others[case.name], topics)
    ]


def _topics(variant: Variant) -> set[str]:
    return {
        message.topic
        for case in variant.cases
        for message in case.messages
        if not any(part in message.topic for part in _UNCOUNTED)
    }


def _of_case(one: Case, other: Case, topics: set[str]) -> Iterator[str]:
    left, right = _histories(one, topics), _histories(other, topics)
    for row in sorted(left.keys() | right.keys()):
        a, b = left.get(row, []), right.get(row, [])
        if len(a) != len(b):
            yield f"{row[0]}, {row[1]}: {len(a)} messages, then {len(b)}"
        for number, (x, y) in enumerate(zip(a, b, strict=False)):
            if x != y:
                yield f"{row[0]}, {row[1]}, message {number}: {_first(x, y)}"


def _histories(case: Case, topics: set[str]) -> dict[tuple[str, str], list[Any]]:
    """(Topic, key) → the messages with that key, in order."""
    found: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    for message in case.messages:
        if message.topic in topics:
            found[message.topic, _UUID.sub("…", _key(message))].append(_said(message))
    return found


def _key(message: Message) -> str:
    return "" if message.key is None else json.dumps(_payload(message.key), sort_keys=True)


def _payload(raw: bytes) -> Any:
    value = json.loads(raw)
    if isinstance(value, dict) and value.keys() == {"schema", "payload"}:
        return value["payload"]
    return value


def _said(message: Message) -> Any:
    headers = {name for name, _ in message.headers}
    value = None if message.value is None else _stable(json.loads(message.value))
    return {"headers": sorted(headers), "value": value}


def _stable(value: Any) -> Any:
    """The value without the fields that differ in every run; schemas and rows are kept."""
    match value:
        case dict() if "payload" in value and "schema" in value:
            return {"schema": value["schema"], "payload": _stable(value["payload"])}
        case dict() if "source" in value:
            kept = {name: part if name in _ROWS else _stable(part) for name, part in value.items()}
            return {name: part for name, part in kept.items() if name not in _VOLATILE}
        case dict() if "__op" in value or "connector" in value:
            return {name: part for name, part in value.items() if name not in _VOLATILE - {"id"}}
        case dict():
            return {name: _stable(part) for name, part in value.items() if name not in _VOLATILE}
        case _:
            return value


def _first(one: Any, other: Any, path: str = "") -> str:
    """The first place where the two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name) or (name in one) != (name in other):
                return _first(one.get(name), other.get(name), f"{path}.{name}")
    return f"{path[1:]} was {json.dumps(one)[:80]}, is {json.dumps(other)[:80]}"
