"""After every captured case, in every configuration, the collections equal the SQL tables.

The messages of `tests/data/debezium` go through the flow's real stages, case by case, in several ways
of delivery. After each case every collection is compared with its table in the database.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import groupby, zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import SecretStr

from flows.embedded.postgres import Postgres
from operators.contract.sections import SourceSection
from operators.kafka.reader import NEW_KEY_HEADER
from operators.postgres.reselect import Reselector
from operators.toast.completer import Database
from tests import captured
from tests.capture.capture import capture
from tests.capture.cases import CASES as CAPTURED
from tests.capture.compare import differences
from tests.captured import Message, Variant
from tests.integration.captured_flow import CapturedFlow
from tests.integration.captured_limits import LIMITS, Limit, as_told
from tests.integration.captured_sql import (
    PostgresHistory,
    State,
    Stored,
    mysql_states,
    postgres_states,
    stored,
)
from tests.integration.captured_tables import (
    collection_of,
    contract_of,
    flavour_of,
    tables_of,
    topic_of,
)

pytestmark = pytest.mark.integration

CASES = [
    pytest.param(variant, case.name, id=f"{variant}-{case.name}")
    for variant in captured.variants()
    for case in captured.cases(variant)
]

TOO_LONG = {"32_large_value": 1, "17_large_text": 2}
"""Case → number of rows whose text is too long for Milvus: dead letters unless superseded."""


# Ways of delivery: the orders and repetitions that Kafka and Debezium allow.


def _in_order(flow: CapturedFlow, messages: Sequence[Message]) -> None:
    flow.feed(messages)


def _partitions_reversed(flow: CapturedFlow, messages: Sequence[Message]) -> None:
    """The last partition is read first; each partition keeps its order."""
    for _, part in reversed([(p, list(part)) for p, part in groupby(messages, _partition)]):
        flow.feed(part)
        flow.close_windows()


def _one_by_one(flow: CapturedFlow, messages: Sequence[Message]) -> None:
    """In the order of writing, with a window for each message."""
    for message in sorted(messages, key=lambda m: m.timestamp):
        flow.feed([message])
        flow.close_windows()


def _sent_again(flow: CapturedFlow, messages: Sequence[Message]) -> None:
    """Debezium sends everything again, as after a crash, when the first copy has been written."""
    flow.feed(messages)
    flow.drain()
    flow.feed(messages)


def _sent_again_slowly(flow: CapturedFlow, messages: Sequence[Message]) -> None:
    """The same with a window for each message: no older version and no deleted row becomes visible."""
    flow.feed(messages)
    flow.drain()
    before = {topic: flow.rows_of(topic) for topic in flow.topics}
    for message in messages:
        flow.feed([message])
        flow.close_windows()
        if message.topic in before:
            assert _sorted(flow.rows_of(message.topic)) == _sorted(before[message.topic])


def _deletes_compacted(flow: CapturedFlow, messages: Sequence[Message]) -> None:
    """Log compaction has kept only the tombstones of deleted rows."""
    kept = [
        message
        for message, after in zip_longest(messages, messages[1:])
        if after is None
        or (after.value, after.key, after.topic) != (None, message.key, message.topic)
        or message.key is None
        or any(name == NEW_KEY_HEADER for name, _ in message.headers)
    ]
    flow.feed(kept)


def _partition(message: Message) -> tuple[str, int]:
    return message.topic, message.partition


DELIVERIES: Mapping[str, Callable[[CapturedFlow, Sequence[Message]], None]] = {
    "in order": _in_order,
    "partitions reversed": _partitions_reversed,
    "one by one": _one_by_one,
    "sent again": _sent_again,
    "sent again slowly": _sent_again_slowly,
    "deletes compacted": _deletes_compacted,
}


class After(NamedTuple):
    """The contents of the collections after a case, by table, and the case's dead letters."""

    rows: Mapping[str, list[Stored]]
    letters: list[str]


class Replay:
    """A variant's history in one way of delivery, run as far as was asked for.

    It only runs forward. The rows after an earlier case are not kept: those of all cases, variants
    and deliveries together would take three gigabytes.
    """

    def __init__(self, variant: Variant, delivery: str, database: Database | None = None) -> None:
        self.variant = variant
        self._deliver = DELIVERIES[delivery]
        messages = [message for case in variant.cases for message in case.messages]
        self._flow = CapturedFlow(contract_of(variant), messages, database)
        self._tables = tables_of(variant)
        self._cases = [case.name for case in variant.cases]
        self._next = 0

    def is_before(self, case: str) -> bool:
        """Whether the case is still to come."""
        return self._next <= self._cases.index(case)

    def after(self, case: str) -> After:
        """Run to the end of the case, which must not have been run yet."""
        assert self.is_before(case)
        letters = 0
        for each in self.variant.cases[self._next : self._cases.index(case) + 1]:
            letters = len(self._flow.letters)
            self._deliver(self._flow, each.messages)
            self._flow.drain()
            self._next += 1
        return After(
            {table: self._flow.rows(collection_of(table)) for table in self._tables},
            [f"{x.subject}: {x.cause}" for x in self._flow.letters[letters:]],
        )

    def close(self) -> None:
        self._flow.close()


class Replays:
    """A replay for each way of delivery, of one variant at a time: cases come variant by variant."""

    def __init__(self) -> None:
        self._open: dict[str, Replay] = {}

    def after(self, variant: Variant, delivery: str, case: str) -> After:
        """What was there after a case; in the order of the cases, each is run once."""
        if any(replay.variant is not variant for replay in self._open.values()):
            self.close()
        replay = self._open.get(delivery)
        if replay is not None and not replay.is_before(case):
            self._open.pop(delivery).close()
            replay = None
        if replay is None:
            replay = self._open[delivery] = Replay(variant, delivery)
        return replay.after(case)

    def close(self) -> None:
        for replay in self._open.values():
            replay.close()
        self._open.clear()


@pytest.fixture(scope="module")
def replays() -> Iterator[Replays]:
    with closing(Replays()) as replays:
        yield replays


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("captured") / "postgres")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def states(server: Postgres) -> Callable[[Variant], Mapping[str, State]]:
    """The contents of the databases after each case of a variant."""
    known: dict[str, Mapping[str, State]] = {}

    def get(variant: Variant) -> Mapping[str, State]:
        # Most variants have the same SQL, so its result is cached by the SQL.
        sql = json.dumps([variant.database, variant.ddl, [(c.name, c.sql) for c in variant.cases]])
        if sql not in known:
            mysql = variant.database == "mysql"
            known[sql] = mysql_states(variant) if mysql else postgres_states(variant, server)
        return known[sql]

    return get


class Expected(NamedTuple):
    """The expected contents by table, the limits that make them differ from SQL, the dead letters."""

    rows: Mapping[str, list[Stored]]
    limits: set[str]
    letters: int


def expected(
    variant: Variant, case: str, delivery: str, now: State, first: State, *, asking: bool = False
) -> Expected:
    flavour = flavour_of(variant)
    told = {
        table: as_told(
            variant,
            flavour,
            table,
            case,
            stored(flavour, table, now.get(table, ())),
            stored(flavour, table, first.get(table, ())),
            delivery=delivery,
            asking=asking,
        )
        for table in tables_of(variant)
    }
    letters = sum(each.letters for each in told.values())
    letters *= 2 if delivery.startswith("sent again") else 1  # One letter for each copy.
    if delivery == "one by one":
        letters += TOO_LONG.get(case, 0)
    return Expected(
        {table: each.rows for table, each in told.items()},
        {name for each in told.values() for name in each.limits},
        letters,
    )


def _compare(after: After, wanted: Expected, delivery: str) -> None:
    for table, rows in wanted.rows.items():
        assert _sorted(after.rows[table]) == _sorted(rows), f"{table}, {delivery}"
    assert len(after.letters) == wanted.letters, (delivery, after.letters)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_case_gives_what_its_sql_gives(
    name: str,
    case: str,
    replays: Replays,
    states: Callable[[Variant], Mapping[str, State]],
) -> None:
    variant = captured.load(name)
    known = states(variant)
    first = known[variant.cases[0].name]
    for delivery in DELIVERIES:
        wanted = expected(variant, case, delivery, known[case], first)
        _compare(replays.after(variant, delivery, case), wanted, delivery)


@pytest.mark.parametrize("name", ["pg_connect_schemas_on", "pg_connect_unwrap"])
def test_with_the_database_at_hand_nothing_is_left_out(name: str, server: Postgres) -> None:
    """The flow asks the database, which is in the state after each case."""
    variant = captured.load(name)
    with ExitStack() as stack:
        history = stack.enter_context(closing(PostgresHistory(variant, server)))
        section = SourceSection(dsn=SecretStr(history.dsn))
        database = stack.enter_context(closing(Reselector(section)))
        replay = stack.enter_context(closing(Replay(variant, "one by one", database)))
        first: State = {}
        for case in variant.cases:
            now = history.after(case)
            first = first or now
            wanted = expected(variant, case.name, "one by one", now, first, asking=True)
            _compare(replay.after(case.name), wanted, case.name)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_a_limit_shows_somewhere(
    limit: Limit, states: Callable[[Variant], Mapping[str, State]]
) -> None:
    """Each limit affects some variant; one that affects none is outdated and must be removed."""
    delivery = next(iter(limit.deliveries), "in order")
    for variant in map(captured.load, captured.variants()):
        known = states(variant)
        first = known[variant.cases[0].name]
        # A limit shows in its first case or in the last one.
        for case in known.keys() & {variant.cases[-1].name, limit.since.get(variant.database)}:
            if limit.name in expected(variant, case, delivery, known[case], first).limits:
                return
    pytest.fail("it makes no difference")


@pytest.mark.parametrize("name", captured.variants())
def test_messages_about_no_row_change_nothing(name: str) -> None:
    """Heartbeats, transaction metadata, logical messages and DDL, sent to the topic of a table."""
    variant = captured.load(name)
    topics = {table.topic for table in contract_of(variant).tables}
    topic = topic_of(variant.database, "inc")
    strangers = [
        message._replace(topic=topic)
        for case in variant.cases
        for message in case.messages
        if message.topic not in topics and not message.topic.endswith(".debezium_signal")
    ]
    assert strangers
    rows = list(variant.cases[0].messages)
    flow = CapturedFlow(contract_of(variant), [*rows, *strangers])
    try:
        flow.feed(rows)
        flow.drain()
        before = flow.rows("inc")
        flow.feed(strangers)
        flow.drain()
        assert flow.rows("inc") == before != []
        assert list(flow.letters) == []
    finally:
        flow.close()


@pytest.mark.parametrize("name", captured.variants())
def test_a_variant_is_the_same_once_saved(name: str, tmp_path: Path) -> None:
    variant = captured.load(name)
    captured.save(variant, tmp_path)
    assert captured.load(name, tmp_path) == variant


def test_a_new_capture_says_what_the_corpus_says() -> None:
    """Captures only the first cases, because all of them take a minute."""
    name = "pg_connect_schemas_off"
    corpus = captured.load(name)
    fresh = capture(name, CAPTURED[:12])
    assert [case.name for case in fresh.cases] == [case.name for case in corpus.cases[:13]]
    assert fresh.connector == corpus.connector
    assert fresh.ddl == corpus.ddl
    assert differences(corpus, fresh) == []
    # The comparison finds differences: another configuration sends other messages.
    assert differences(captured.load("pg_connect_unwrap"), fresh)


def _sorted(rows: Iterable[Stored]) -> list[Stored]:
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))
