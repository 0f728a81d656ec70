"""The check of the live run finds each kind of fault."""

import pytest

from operators.changes.text_hash import text_hash
from tests.live.changes import State
from tests.live.looking import Seen, judge
from tests.live.tables import ITEMS, Row


def row(rev: int, title: str, body: str, status: str = "open") -> Row:
    return {"id": 1, "title": title, "body": body, "status": status, "deleted": False, "rev": rev}


def state(row: Row | None) -> State:
    if row is None:
        return State(ITEMS, 0, None, None)
    text = ITEMS.text(row)
    return State(ITEMS, row["rev"], None if text is None else text_hash(text), row)


def seen(rev: int, text: str) -> Seen:
    return Seen(f"{rev:04x}", rev, text_hash(text))


# Insert, update, hidden with another text, shown again, delete, insert again.
STATES = [
    state(row(1, "a", "one")),
    state(row(2, "b", "one")),
    state(row(3, "b", "two", "closed")),
    state(row(4, "b", "two")),
    state(None),
    state(row(6, "c", "three")),
]
ONE, TWO, FOUR, SIX = (
    seen(1, "a (one)"),
    seen(2, "b (one)"),
    seen(4, "b (two)"),
    seen(6, "c (three)"),
)


def faults(*looks: Seen | None, reselects: bool = False) -> str:
    return " ".join(judge({"items:1": STATES}, {"items:1": looks}, reselects=reselects).faults)


@pytest.mark.parametrize(
    "looks",
    [
        (ONE, TWO, None, FOUR, None, SIX),
        (ONE, SIX),
        (ONE, FOUR, None),
        (TWO, None, SIX),
        (TWO, TWO._replace(version="0003")),
        (None, SIX),
    ],
)
def test_what_was_committed_in_its_order_is_right(looks):
    assert faults(*looks) == ""


@pytest.mark.parametrize(
    ("looks", "fault"),
    [
        ((TWO, ONE), "older than what was seen"),
        ((TWO, None, TWO), "older than what was seen"),
        ((SIX, FOUR), "older than what was seen"),
        # The first absence matches the hidden state. The second can only match the delete, after
        # which FOUR is too old.
        ((TWO, None, FOUR, None, FOUR), "older than what was seen"),
        ((SIX, None), "nothing removed it"),
        ((seen(3, "b (two)"),), "never committed"),
        ((seen(7, "x"),), "never committed"),
        ((seen(4, "b (one)"),), "not that of change 4"),
    ],
)
def test_what_is_wrong_is_found(looks, fault):
    assert fault in faults(*looks)
    assert fault in faults(*looks, reselects=True)


def test_a_value_that_the_database_gave_may_be_of_a_later_change():
    ahead = seen(1, "a (two)")
    assert "not that of change 1" in faults(ahead)
    assert faults(ahead, reselects=True) == ""
    # A large value of an earlier change is a fault.
    assert "not that of change 6" in faults(seen(6, "c (two)"), reselects=True)


def test_a_row_with_a_dead_letter_is_excused():
    looks = {"items:1": [TWO, ONE]}
    judged = judge({"items:1": STATES}, looks, reselects=False, dead={"items:1"})
    assert (judged.faults, judged.excused) == ([], 1)
