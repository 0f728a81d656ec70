"""Several physical tables, or servers, in one topic: none touches another one's rows."""

import logging
from typing import Any

import orjson
import pytest

from operators.changes.row_key import RowKey
from operators.changes.version import Version
from operators.contract.table import TableSection
from operators.retry import RetryPolicy
from operators.stages.look_up import LookUp
from operators.stages.meeting import Places
from operators.state.version_map import VersionMap
from operators.telemetry import Telemetry
from tests.changes import TOPIC, doc, key, table, tombstone
from tests.fakes import MemoryStore
from tests.unit.stages.test_dedup import ONE, TWO, Shard
from tests.unit.stages.test_look_up import stored

PARTS = ["app.public.docs_*"]


def change(
    op: str, id_: int | None, at: int, physical: str = "docs", text: str = "text", **more: Any
) -> tuple[bytes | None, bytes | None]:
    """A change of PostgreSQL's table `physical` in database app; without an id, a TRUNCATE."""
    block = {
        "connector": "postgresql",
        "name": "app",
        "db": "app",
        "schema": "public",
        "table": physical,
        "snapshot": "false",
        "lsn": at,
        "ts_ms": 1,
        **more,
    }
    after = None if id_ is None or op == "d" else doc(id_, text)
    value = orjson.dumps({"op": op, "before": None, "after": after, "source": block})
    return None if id_ is None else key(id=id_), value


def shard(**more: Any) -> Shard:
    settings = {**table().model_dump(), **more}
    return Shard(whole=True, partitions=[(TOPIC, 0)], tables=[settings])


def started(**more: Any) -> Shard:
    made = shard(**more)
    made.take(resumed=True)
    return made


def texts(made: Shard) -> dict[str, str]:
    """Rows of the window that closes, by key; None if the row is deleted."""
    window = made.close()
    if window is None:
        return {}
    rows = {k: row.text.partition("\n")[2] for k, row in window.rows.items()}  # type: ignore
    return rows | dict.fromkeys(window.deletes, "-")


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("lsn", [4, 6], ids=["older", "newer"])
def test_the_row_of_another_table_is_refused_while_the_first_one_lives(closed, lsn):
    made = started()
    made.take(change("c", 1, 5, "docs", "a doc"))
    window = made.closed() if closed else None
    made.take(
        change("c", 1, lsn, "notes", "a note"), change("d", 1, lsn + 1, "notes"), tombstone(1)
    )
    window = made.closed()
    assert [(each.stage, each.row_key) for each in window.dead] == [("dedup", ONE)]
    assert "several tables" in window.dead[0].cause
    assert "source_tables" in window.dead[0].hint
    assert not window.deletes
    assert made.dropped() == {"other-table": 1}
    made.take(change("u", 1, 7, "docs", "more"))
    assert texts(made) == {"docs:1": "more"}


@pytest.mark.parametrize("lsn", [2, 900])
def test_a_key_that_its_table_gave_up_may_be_another_ones(lsn):
    made = started()
    made.take(change("c", 1, 500), change("d", 1, 600), tombstone(1))
    made.take(change("c", 1, lsn, "docs", "moved", db="shard_b"))
    assert texts(made) == {"docs:1": "moved"}
    made.take(change("u", 1, lsn + 1, "docs", "again", db="shard_b"))
    assert texts(made) == {"docs:1": "again"}
    made.take(change("d", 1, 700))
    assert texts(made) == {}


def test_a_truncate_empties_its_own_table():
    made = started()
    made.take(change("c", 1, 5, "docs_1", "one"), change("c", 2, 6, "docs_2", "two"))
    made.take(change("t", None, 9, "docs_1"))
    window = made.closed()
    assert [*window.rows] == [TWO]
    assert len(window.truncates) == 1
    made.take(change("c", 1, 7, "docs_1", "stale"), change("u", 2, 7, "docs_2", "later"))
    assert texts(made) == {"docs:2": "later"}


def test_truncates_of_two_tables_both_count_over_a_restart():
    made = started()
    made.take(change("c", 1, 5, "docs_1"), change("c", 2, 6, "docs_2"))
    made.take(change("t", None, 9, "docs_1"), change("t", None, 8, "docs_2"))
    made.restart()
    made.take(resumed=True)
    made.take(change("c", 1, 7, "docs_1"), change("c", 2, 7, "docs_2"))
    window = made.closed()
    assert (len(window.truncates), window.rows) == (2, {})
    assert made.dropped() == {"stale": 2}


# `source_tables`.


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("app.public.docs", True),
        ("app.public.d*", True),
        ("app/app.public.docs", True),
        ("*/app.public.docs", True),
        ("other/app.public.docs", False),
        ("app.public.notes", False),
        ("public.docs", False),
        ("APP.public.docs", False),
    ],
)
def test_the_contract_names_the_tables_that_it_takes(pattern, taken, caplog):
    made = started(source_tables=[pattern])
    with caplog.at_level(logging.INFO):
        made.take(change("c", 1, 5), change("u", 1, 6), change("t", None, 4))
    assert bool(texts(made)) == taken
    assert made.dropped() == ({"superseded": 1} if taken else {"other-table": 3})
    assert ["are ignored" in each.message for each in caplog.records] == [] if taken else [True]


def test_what_is_not_taken_deletes_nothing():
    made = started(source_tables=["app.public.docs"])
    made.take(change("c", 1, 5, "docs", "a doc"))
    made.take(change("d", 1, 6, "notes"), tombstone(1), change("t", None, 9, "notes"))
    window = made.closed()
    assert [*window.rows] == [ONE]
    assert (window.deletes, window.dead, window.truncates) == ({}, [], [])


def test_another_table_may_have_another_key():
    made = started(source_tables=["app.public.docs"])
    value = orjson.loads(change("c", 1, 5, "notes")[1] or b"")
    made.take((key(other=7), orjson.dumps(value)))
    assert made.close() is None
    assert made.dropped() == {"other-table": 1}


@pytest.mark.parametrize(
    "changes",
    [
        [change("d", 1, 500, db="a"), change("c", 1, 7, db="b"), change("d", 1, 8, db="b")],
        # In its new part the row is hidden by the filter.
        [change("d", 1, 500, db="a"), change("c", 1, 7, text="draft", db="b")],
        [change("c", 1, 7, text="draft", db="b"), change("d", 1, 500, db="a")],
        [change("c", 1, 7, db="b"), change("d", 1, 500, db="a"), change("d", 1, 8, db="b")],
    ],
    ids=["deleted again", "hidden", "hidden, and given up", "given up between"],
)
def test_a_row_that_another_shard_took_over_does_not_stay_as_the_first_one_stored_it(changes):
    shards = {
        "source_tables": ["*.public.docs"],
        "filter": [{"column": "doc", "equals": "text"}],
    }
    store = stored(lsn=4, offset=0)
    made = started(**shards)
    made.take(change("c", 1, 4, db="a"))
    for row in store._collections["docs"].rows.values():
        row["rv_version"] = made.closed().rows[ONE].version
    made.logic._versions = versions = VersionMap(whole=False, horizon_s=100, now=0)
    made.logic._pending._versions = made.logic._settler._versions = versions
    made.take(*changes)
    window = made.closed()
    section = TableSection.model_validate({**table().model_dump(), **shards})
    telemetry = Telemetry()
    resolver = LookUp(
        {TOPIC: section},
        store,
        RetryPolicy(0.0, telemetry),
        telemetry,
        Places([(TOPIC, 0)], telemetry),
    )
    resolver([("000", window)])
    assert [*window.deletes] == [ONE]


def test_a_change_that_one_shard_had_refused_says_nothing_of_the_next_ones_row():
    versions = VersionMap(whole=True, horizon_s=100, now=0)
    made = started(source_tables=["*.public.docs"])
    made.take(change("c", 1, 900, db="a"))
    of_a = made.closed().rows[ONE].version
    made.take(change("c", 1, 5, db="b"))
    of_b = made.closed().rows[ONE].version
    versions.taint(ONE, of_a)
    versions.put(ONE, of_b, "hash")
    assert not versions.is_tainted(ONE, of_b)


def test_parts_of_one_table_are_compared_by_the_position_of_their_log():
    made = started(source_tables=PARTS)
    made.take(change("d", 1, 6, "docs_1"), change("c", 1, 7, "docs_2", "moved"))
    made.take(change("u", 1, 5, "docs_1", "stale"))
    assert texts(made) == {"docs:1": "moved"}
    assert made.dropped() == {"superseded": 1, "stale": 1}


def test_shards_of_one_table_are_ordered_by_their_offset():
    made = started(source_tables=["*.public.docs"])
    made.take(change("c", 1, 900, text="on a", db="a"), change("u", 1, 5, text="on b", db="b"))
    assert texts(made) == {"docs:1": "on b"}
    made.take(change("d", 1, 950, db="a"))  # a gives the row up after b has got it
    assert texts(made) == {}
    made.take(change("d", 1, 6, db="b"))
    assert texts(made) == {"docs:1": "-"}


@pytest.mark.parametrize("more", [{}, {"source_tables": ["app.public.docs"]}])
def test_a_lone_tombstone_in_a_topic_of_several_tables_is_refused(more):
    made = started(**more)
    made.take(change("c", 1, 5), change("c", 2, 6, "notes"), tombstone(1))
    window = made.closed()
    assert ONE in window.rows
    assert "a tombstone does not say whose row it deletes" in window.dead[0].cause


@pytest.mark.parametrize("table_field", [False, True])
def test_an_unwrapped_row_must_name_its_table_if_the_contract_asks(table_field):
    made = started(source_tables=["app.docs"])
    named = {"__db": "app", "__table": "docs"} if table_field else {}
    row = {**doc(1), "__op": "c", "__lsn": 5, **named}
    made.take((key(id=1), orjson.dumps(row)))
    window = made.closed()
    assert bool(window.rows) == table_field
    assert [each.hint.partition(" (")[0] for each in window.dead] == (
        [] if table_field else ["let ExtractNewRecordState add the fields db, schema and table"]
    )


# What the store holds.


def of_notes(store: MemoryStore) -> Version:
    made = started()
    made.take(change("c", 1, 4, "notes"))
    version = made.closed().rows[ONE].version
    for row in store._collections["docs"].rows.values():
        row["rv_version"] = version
    return version


@pytest.mark.parametrize("op", ["u", "d"])
def test_what_another_table_has_stored_stays(op):
    store = stored(lsn=4, offset=0)
    held = of_notes(store)
    made = started()
    made.logic._versions = versions = VersionMap(whole=False, horizon_s=100, now=0)
    made.logic._pending._versions = made.logic._settler._versions = versions
    made.take(change(op, 1, 9))
    window = made.closed()
    assert window.unverified == {ONE}
    telemetry = Telemetry()
    resolver = LookUp(
        {TOPIC: table()},
        store,
        RetryPolicy(0.0, telemetry),
        telemetry,
        Places([(TOPIC, 0)], telemetry),
    )
    resolver([("000", window)])
    assert (window.rows, window.deletes) == ({}, {})
    assert [each.stage for each in window.dead] == (["resolve"] if op == "u" else [])
    known = versions.get(RowKey("docs:1"))
    assert known is not None
    assert known[0] == held


def test_a_row_that_took_over_is_written_over_what_is_stored():
    store = stored(lsn=4, offset=0)
    of_notes(store)
    made = started()
    made.logic._versions = versions = VersionMap(whole=False, horizon_s=100, now=0)
    made.logic._pending._versions = made.logic._settler._versions = versions
    made.take(change("d", 1, 5, "notes"), change("c", 1, 2), change("u", 1, 3, "docs", "mine"))
    window = made.closed()
    telemetry = Telemetry()
    resolver = LookUp(
        {TOPIC: table()},
        store,
        RetryPolicy(0.0, telemetry),
        telemetry,
        Places([(TOPIC, 0)], telemetry),
    )
    resolver([("000", window)])
    assert window.rows[ONE].text == "doc 1\nmine"  # type: ignore[union-attr]
    assert window.dead == []


def test_a_change_without_a_position_is_refused_where_several_servers_send_theirs():
    made = started(source_tables=["*"])
    made.take(change("c", 1, 5, name="a"), change("u", 1, 0, name="a", lsn=None))
    assert made.closed().dead == []
    made.take(change("c", 2, 5, name="b"), change("u", 2, 0, name="b", lsn=None))
    (letter,) = made.closed().dead
    assert letter.row_key == TWO
    assert "several servers" in letter.cause
