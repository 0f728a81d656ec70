"""Several changes of a row in one window, some of which hide the row or leave out values."""

from dataclasses import replace

import pytest

from flows.sync import rules_of
from operators.changes.rows import PartialRow, Row
from operators.changes.version import make_version
from operators.codec.log_positions import position_of
from operators.contract.table import UNAVAILABLE
from operators.stages.dedup import DedupLogic
from operators.stages.window import ShardRecords
from tests.changes import TOPIC, contract, doc, envelope, gone, key, source, table
from tests.unit.stages.test_dedup import ONE, TWO, Pair, Shard


def filtering() -> Shard:
    """A shard of a table whose filter hides drafts."""
    shard = Shard()
    filters = [{"column": "kind", "equals": "page"}]
    tables = (table(filter=filters), contract().tables[1])
    rules = rules_of(contract().model_copy(update={"tables": tables}))
    shard.shared = replace(shard.shared, rules=rules)
    shard.logic = DedupLogic(shard.shared, None)
    return shard


def change(lsn: int, kind: str, text: str | None = UNAVAILABLE) -> Pair:
    return key(id=1), envelope("u", lsn, {**doc(1), "kind": kind, "doc": text})


@pytest.mark.parametrize("text", ["new", None, ""])
def test_a_text_that_changed_while_its_row_was_hidden(text: str | None):
    shard = filtering()
    shard.take(change(1, "page", "old"))
    shard.closed()
    shard.take(change(2, "draft", text), change(3, "draft"), change(4, "page"))
    row = shard.closed().rows[ONE]
    assert isinstance(row, Row)
    assert row.text == f"doc 1\n{text or ''}"


def test_a_text_that_was_left_alone_while_its_row_was_hidden_is_still_stored():
    shard = filtering()
    shard.take(change(1, "page", "old"))
    before = shard.closed().rows[ONE]
    shard.take(change(2, "draft"), change(3, "page"))
    row = shard.closed().rows[ONE]
    assert isinstance(row, PartialRow)
    assert row.follows == before.version


def test_a_text_that_changed_before_its_row_was_hidden():
    shard = filtering()
    shard.take(change(1, "page", "old"))
    shard.closed()
    shard.take(change(2, "page", "new"), change(3, "draft"), change(4, "page"))
    row = shard.closed().rows[ONE]
    assert isinstance(row, Row)
    assert row.text == "doc 1\nnew"


def test_what_a_row_held_whose_key_changed_is_told_by_its_window_alone():
    """The store must not be asked: under the reused key it still holds the row from before."""
    shard = Shard()
    shard.take(change(1, "page", "old"))
    shard.closed()
    here, (there, _) = key(id=1), gone(2, 3)
    came = envelope("c", 4, {**doc(1), "doc": UNAVAILABLE})
    changes = [
        (1, *change(2, "page", "new"), None),
        (2, *gone(1, 3), there),
        (3, here, came, there),
    ]
    records = tuple((offset, ONE, *rest) for offset, *rest in changes)
    shard.logic.on_batch([ShardRecords(TOPIC, 0, False, records, None)])
    moves = shard.shared.moves
    # The lane of the old key will deliver the row.
    moves.dispatch(TWO, make_version(0, position_of(source(4)) or "", 3))
    assert shard.logic.notify_at() is not None
    windows, _ = shard.logic.on_notify()
    assert [window.moves for window in windows] == [[]] * len(windows)
    assert any(ONE in window.rows for window in windows)
    held = moves.take(ONE, make_version(0, position_of(source(3)) or "", 2))
    assert isinstance(held, Row)
    assert held.text == "doc 1\nnew"


def test_what_a_key_held_is_asked_for_before_another_whole_row_takes_it():
    shard = Shard()
    here, (there, _) = key(id=1), gone(2, 3)
    changes = [(1, *gone(1, 3), there), (2, here, envelope("c", 4, doc(1)), None)]
    records = tuple((offset, ONE, *rest) for offset, *rest in changes)
    shard.logic.on_batch([ShardRecords(TOPIC, 0, False, records, None)])
    assert shard.logic.notify_at() is not None
    (window,), _ = shard.logic.on_notify()
    assert isinstance(window.rows[ONE], Row)
    assert [move.delete.row_key for move in window.moves] == [ONE]
