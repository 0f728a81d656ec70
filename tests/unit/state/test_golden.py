"""The content of recovery files, value for value, in the current format and the one before.

`tests/golden/` has an example of each readable format, with its number in the file's name. The format
before the current one is always readable. If a test here fails, either undo the change, or raise the
STATE_FORMAT: then write a function that converts the previous format to the new one, delete the reader
and the file of the format before that, and add a file of the new one.
"""

import json
import pickle
import pickletools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bytewax.testing import TestingSink

from flows.sync import Parts, build_flow, rules_of
from operators.changes.row_key import RowKey
from operators.changes.shards import ALL_SHARDS, SHARDS, shard_of
from operators.changes.version import NO_POSITION, Version, make_version
from operators.errors import FatalError
from operators.retry import RetryPolicy
from operators.stages.dedup import DedupLogic
from operators.stages.lanes import Lanes
from operators.stages.partitions import PartitionedSource
from operators.stages.settle import DedupContext
from operators.stages.source import PartitionLogic, SourceSettings
from operators.stages.upsert import UpsertLogic
from operators.stages.window import ShardRecords
from operators.stages.window_clock import WindowClock
from operators.state import dedup_checkpoint, source_checkpoint
from operators.state.frozen_versions import FrozenVersions
from operators.store.protocol import entity_id
from operators.telemetry import Telemetry
from tests.changes import TOPIC, LetterBox, Log, contract, doc, envelope, gone, key, put, tombstone
from tests.fakes import HashEmbedder, MemoryStore

GOLDEN = Path(__file__).parents[2] / "golden"
PLAIN = (str, int, bool, bytes, type(None))
START = datetime(2026, 1, 1, tzinfo=UTC)


class Time:
    def __init__(self) -> None:
        self.now = START


def as_json(value: Any) -> Any:
    """A plain value with its types spelled out; anything that is not plain is an error."""
    if type(value) is tuple:
        return {"tuple": [as_json(item) for item in value]}
    if type(value) is dict:
        return {"dict": {key: as_json(item) for key, item in value.items()}}
    if type(value) is frozenset:
        return {"frozenset": sorted(value)}
    if type(value) is list:
        return {"list": [as_json(item) for item in value]}
    if type(value) is bytes:
        return {"bytes": value.decode("latin-1")}
    assert type(value) in PLAIN, f"{type(value)} must not get into a recovery file"
    return value


def from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "tuple":
            return tuple(from_json(item) for item in inner)
        case "dict":
            return {key: from_json(item) for key, item in inner.items()}
        case "frozenset":
            return frozenset(inner)
        case "list":
            return [from_json(item) for item in inner]
        case _:
            return inner.encode("latin-1")


def without_tails(state: Any) -> Any:
    """A shard's state without what its versions and marks say of partitions and physical tables."""
    text = re.sub(r"(?<=[0-9a-f]{16})\.[0-9a-f]{24}\"", '"', json.dumps(state))
    text = re.sub(r'("docs:)[0-9a-f]{16}"', r'\1"', text)
    text = re.sub(r'("docs:[0-9]+": )"[0-9a-f]{7}"', r'\1""', text)
    # Nor did it keep the deletes that wait for their tombstone, but for those that were dropped.
    return json.loads(text.replace(', "docs:6": ""', ""))


DEDUP = dedup_checkpoint.STATE_FORMAT
SOURCE = source_checkpoint.STATE_FORMAT


def golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text("utf-8"))


def modules_in(state: Any) -> set[str]:
    """The modules that unpickling a state would import."""
    found: set[str] = set()
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(pickle.dumps(state)):
        if opcode.name in ("GLOBAL", "INST"):
            found.add(str(argument).split(" ")[0])
        elif opcode.name == "STACK_GLOBAL":
            # The module name is one of the strings seen before, on the stack or in the memo.
            found.update(texts)
        if isinstance(argument, str):
            texts.append(argument)
    return found


def shared(time: Time, *, whole: bool = False) -> DedupContext:
    return DedupContext(
        rules=rules_of(contract()),
        clock=WindowClock(0.2, 1_000, lambda: time.now),
        telemetry=Telemetry(),
        horizon_s=100,
        whole=whole,
    )


def dedup_state(time: Time) -> Any:
    """A shard's state without an empty field: both generations, pending rows of every kind, a
    TRUNCATE, dead letters."""
    logic = DedupLogic(shared(time), None)
    records: list[tuple[bytes | None, bytes | None]] = [put(1, 10, "one"), put(2, 11, "two")]
    offset = 0

    def take(records: list[tuple[bytes | None, bytes | None]]) -> None:
        nonlocal offset
        changes = []
        for raw_key, value in records:
            row = RowKey(f"docs:{json.loads(raw_key)['id']}") if raw_key else RowKey("")
            changes.append((offset, row, raw_key, value, None))
            offset += 1
        logic.on_batch([ShardRecords(TOPIC, 3, False, tuple(changes), (1, 2, 1))])

    take(records)
    logic.on_notify()
    time.now += timedelta(seconds=100)
    take([gone(2, 12), tombstone(2), gone(1, 9)])
    logic.on_notify()
    take(
        [
            (key(id=4), envelope("c", 20, doc(4, "vier", kind=None, size=7))),
            (key(id=5), envelope("u", 21, doc(5, "Grüße 🎉"))),
            gone(6, 22),
            tombstone(7),
            (None, envelope("t", 19, None)),
            (key(id=11), envelope("u", 25, doc(11, "__debezium_unavailable_value"))),
            (key(id=8), b"{"),
            (None, envelope("c", 23, doc(9))),
            (key(id=10), envelope("c", 24, {"id": 10, "name": "x"})),
        ]
    )
    return logic.snapshot()


def source_settings() -> SourceSettings:
    return SourceSettings(
        batch_size=2,
        max_epoch_records=1_000,
        max_epoch_bytes=2**20,
        epoch_interval_s=1.0,
        exit_at_end=False,
        stop=lambda: False,
        now=lambda: 0.0,
        telemetry=Telemetry(),
    )


def source_states() -> list[Any]:
    """The state before anything was read, and the state after two records."""
    log = Log([put(1, 1), put(2, 2)])
    logic = PartitionLogic(TOPIC, 0, log.reader, source_settings(), None)
    states = [logic.snapshot()]
    assert logic.next_batch()
    return [*states, logic.snapshot()]


def test_the_state_of_a_shard():
    assert DEDUP == 4
    assert as_json(dedup_state(Time())) == golden("dedup_state_4.json")


def test_the_frozen_rows_of_a_shard():
    known = {
        RowKey("docs:1"): (
            make_version(0, f"{19:016x}.{20:016x}", 7),
            "b7aaf7932979564556c86cb1eac5ab8a",
        ),
        RowKey("docs:2,x"): (make_version(0, NO_POSITION, 8), ""),
        RowKey("docs:3"): (Version("not as ours"), None),
    }
    packed = FrozenVersions.none().with_rows(known).pack()
    assert as_json(packed) == golden("frozen_versions.json")
    again = FrozenVersions.unpack(from_json(golden("frozen_versions.json")))
    assert {key: again.get(key) for key in known} == known


@pytest.mark.parametrize("number", [DEDUP - 1, DEDUP])
def test_a_shard_resumes_from_each_readable_format(number):
    time = Time()
    state = from_json(golden(f"dedup_state_{number}.json"))
    assert state[0] == number
    logic = DedupLogic(shared(time), pickle.loads(pickle.dumps(state)))
    now, expected = as_json(logic.snapshot()), golden(f"dedup_state_{DEDUP}.json")
    if number < DEDUP:
        # Versions of the format before do not say where their changes come from.
        now, expected = without_tails(now), without_tails(expected)
    assert now == expected
    logic.on_batch([ShardRecords(TOPIC, 3, True, (), None)])
    time.now += timedelta(seconds=1)
    (window,), _ = logic.on_notify()
    partial = window.rows.pop(RowKey("docs:11"))
    assert (partial.missing, partial.texts) == (("doc",), {"name": "doc 11"})
    assert {row.text for row in window.rows.values()} == {"doc 4\nvier", "doc 5\nGrüße 🎉"}
    assert [truncate.table for truncate in window.truncates] == ["docs"]
    assert window.rows[RowKey("docs:4")].columns == {"kind": None, "size": 7}
    assert {(key, delete.unpositioned) for key, delete in window.deletes.items()} == {
        ("docs:6", False),
        ("docs:7", True),
    }
    assert [(letter.position.offset, letter.stage) for letter in window.dead] == [
        (11, "decode"),
        (12, "decode"),
        (13, "render"),
    ]


def test_frozen_rows_are_read_from_the_format_before():
    frozen = from_json(golden("frozen_versions.json"))
    rows = ({}, frozen)
    versions = (True, rows, ({}, None), frozenset(), frozenset(), frozenset(), {}, {})
    logic = DedupLogic(shared(Time()), (DEDUP - 1, versions, (), (), ()))
    logic.on_eof()
    assert logic.snapshot()[1]["versions"]["young"] == {"recent": {}, "frozen": frozen}


def test_the_state_of_a_partition():
    assert SOURCE == 3
    assert [as_json(state) for state in source_states()] == golden("source_states_3.json")


@pytest.mark.parametrize("number", [SOURCE - 1, SOURCE])
@pytest.mark.parametrize("state", [0, 1], ids=["first", "next"])
def test_a_partition_resumes_from_each_readable_format(number, state):
    before = from_json(golden(f"source_states_{number}.json")[state])
    assert before[0] == number
    log = Log([put(1, 1), put(2, 2), put(3, 3)])
    logic = PartitionLogic(TOPIC, 0, log.reader, source_settings(), before)
    assert as_json(logic.snapshot()) == golden(f"source_states_{SOURCE}.json")[state]
    (batch,) = logic.next_batch()
    assert [record[0] for record in batch.records] == [[0, 1, 2], [2]][state]


def test_there_is_an_example_of_each_readable_format_and_of_no_other():
    found = {path.stem for path in GOLDEN.glob("*_state*.json")}
    assert found == {
        *(f"dedup_state_{number}" for number in (DEDUP - 1, DEDUP)),
        *(f"source_states_{number}" for number in (SOURCE - 1, SOURCE)),
    }


def test_a_shard_of_the_upsert_step_keeps_nothing():
    lanes = Lanes(_NoWriter(), 1)  # type: ignore[arg-type]
    try:
        assert UpsertLogic(lanes).snapshot() == ()
    finally:
        lanes.close()


class _NoWriter:
    def write(self, windows: Any) -> Any:
        raise AssertionError("nothing to write")


@pytest.mark.parametrize(
    "state", [dedup_state(Time()), *source_states(), ()], ids=["dedup", "first", "next", "upsert"]
)
def test_no_class_of_the_project_is_in_a_recovery_file(state):
    assert not {
        name for name in modules_in(state) if name.split(".")[0] in ("operators", "flows", "tests")
    }
    # `as_json` also rejects classes of other packages.
    as_json(state)


def test_the_check_would_see_a_class():
    assert "operators.changes.events" in modules_in(make_position())


def make_position() -> Any:
    from operators.changes.events import KafkaPosition

    return (1, KafkaPosition("t", 0, 1))


@pytest.mark.parametrize("found", [0, DEDUP - 2, DEDUP + 1, str(DEDUP)])
def test_a_shard_refuses_any_other_format(found):
    message = rf"step 'dedup': it has format {found}, and .* reads formats {DEDUP - 1} and {DEDUP}"
    with pytest.raises(FatalError, match=message) as caught:
        DedupLogic(shared(Time()), (found, *dedup_state(Time())[1:]))
    assert "empty recovery directory" in caught.value.hint


@pytest.mark.parametrize("found", [0, SOURCE - 2, SOURCE + 1, str(SOURCE)])
def test_a_partition_refuses_any_other_format(found):
    message = rf"docs\[0\]: it has format {found}, and .* reads formats {SOURCE - 1} and {SOURCE}"
    with pytest.raises(FatalError, match=message) as caught:
        PartitionLogic(TOPIC, 0, Log().reader, source_settings(), (found, *source_states()[1][1:]))
    assert "empty recovery directory" in caught.value.hint


def _steps(part: Any) -> Iterator[str]:
    for step in part.substeps:
        if step.substeps:
            yield from _steps(step)
        else:
            yield step.step_id


def test_the_steps_that_recovery_files_are_keyed_by():
    telemetry = Telemetry()
    flow = build_flow(
        Parts(
            contract=contract(),
            source=PartitionedSource([(TOPIC, 0)], lambda *_: Log().reader(0), source_settings()),
            embedder=HashEmbedder(),
            store=MemoryStore(),
            dead_letters=LetterBox(),
            receipts=TestingSink([]),
            retry=RetryPolicy(1.0, telemetry),
            telemetry=telemetry,
            whole=True,
        )
    )
    flow.close()
    assert {"flow": flow.dataflow.flow_id, "steps": list(_steps(flow.dataflow))} == golden(
        "steps.json"
    )


def test_the_name_of_a_partition():
    parts = PartitionedSource(
        [(TOPIC, 0), (TOPIC, 11)], lambda *_: Log().reader(0), source_settings()
    )
    assert parts.list_parts() == ["app.public.docs/0", "app.public.docs/11"]


def test_shards():
    assert SHARDS == len(ALL_SHARDS) == len(set(ALL_SHARDS)) == 256
    assert (ALL_SHARDS[0], ALL_SHARDS[255]) == ("000", "255")
    found = golden("shards.json")
    assert {key: shard_of(key) for key in found} == found
    # The shards are even enough that every worker gets work.
    counts = [0] * SHARDS
    for number in range(25_600):
        counts[int(shard_of(f"docs:{number}"))] += 1
    assert min(counts) > 50
    assert max(counts) < 200


def test_entity_ids():
    assert entity_id(RowKey("docs:1")) == "docs:1#0"
    assert entity_id(RowKey("order_items:7,2"), 3) == "order_items:7,2#3"
    assert entity_id(RowKey("users:a%40example.com")) == "users:a%40example.com#0"


def test_versions():
    assert make_version(0, f"{25_987_448:016x}.{25_987_448:016x}", 1) == (
        "0000.00000000018c8978.00000000018c8978.0000000000000001"
    )
    assert make_version(0xFFFF, f"{2**64 - 1:x}.{2**64 - 1:x}", 2**63 - 1) == (
        "ffff.ffffffffffffffff.ffffffffffffffff.7fffffffffffffff"
    )
