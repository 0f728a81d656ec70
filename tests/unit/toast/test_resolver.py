"""The rules of left-out values, as tables: which donors are allowed, and what is left if there is none.

A change is written as its LSN and its `doc`: a text, or None if the column is left out.
"""

from collections.abc import Sequence

import pytest

from flows.sync import rules_of
from operators.changes.events import Delete, KafkaPosition, Upsert
from operators.changes.row_key import RowKey
from operators.changes.rows import Followed, Follows, Move, PartialRow, Pending, Row, Winner
from operators.changes.text_hash import text_hash
from operators.changes.version import (
    NO_POSITION,
    Version,
    make_version,
    place_of_partition,
    tail_of,
)
from operators.contract.table import MAX_VARCHAR_BYTES, UNAVAILABLE
from operators.toast.donor import Donor, donor_of_row
from operators.toast.key_changes import Held
from operators.toast.resolver import (
    WasRefused,
    asks_the_same,
    donor_in_lane,
    fall_back,
    fill,
    held_in_lane,
    held_in_window,
    may_give,
    settle,
)
from tests.changes import TOPIC, contract, table

ONE, OTHER = RowKey("docs:1"), RowKey("docs:2")
UNKNOWN, REFUSED = Follows.UNKNOWN, Follows.REFUSED

RENDERER = rules_of(
    contract().model_copy(
        update={"tables": (table(filter=[{"column": "kind", "equals": "page"}]),)}
    )
)[TOPIC].renderer


def v(lsn: int) -> Version:
    return make_version(0, f"{lsn:016x}.{lsn:016x}", 0)


def at(lsn: int) -> KafkaPosition:
    return KafkaPosition(TOPIC, 0, lsn)


# Changes as they are decoded.


def change(lsn: int, doc: str | None, old: RowKey | None = None, **columns: object) -> Upsert:
    text = UNAVAILABLE if doc is None else doc
    row = {"id": 1, "name": "n", "doc": text, "kind": "page", "size": lsn, **columns}
    return Upsert(ONE, v(lsn), at(lsn), 0, "u", row, old_key=old)


def bad(lsn: int, doc: str | None) -> Upsert:
    """A change that cannot be rendered."""
    return change(lsn, doc, size="?")


def no_column(lsn: int) -> Upsert:
    """A change without the column `doc`, as after a schema change."""
    row = {"id": 1, "name": "n", "kind": "page", "size": lsn}
    return Upsert(ONE, v(lsn), at(lsn), 0, "u", row)


def hidden(lsn: int, doc: str | None) -> Upsert:
    """A change that the filter keeps out of the collection."""
    return change(lsn, doc, kind="draft")


def came(lsn: int, doc: str | None = None) -> Upsert:
    """A change that gives a row a new key."""
    return change(lsn, doc, OTHER)


# Changes that were rendered for a checkpoint.


def gone(lsn: int) -> Delete:
    return Delete(ONE, v(lsn), at(lsn), 0)


def row(lsn: int, doc: str) -> Row:
    text, spans = f"n\n{doc}", (("name", 0, 1), ("doc", 2, 2 + len(doc)))
    columns = {"kind": "page", "size": lsn}
    return Row(ONE, v(lsn), at(lsn), 0, "u", "docs", text, text_hash(text), columns, spans)


def lacks(lsn: int, follows: Followed = UNKNOWN, old: RowKey | None = None) -> PartialRow:
    """A row without `doc`."""
    columns = {"kind": "page", "size": lsn}
    texts = {"name": "n"}
    return PartialRow(
        ONE, v(lsn), at(lsn), 0, "u", "docs", texts, columns, ("doc",), old, follows=follows
    )


def as_text(each: Pending | Donor | Move | None) -> str:
    """A short form that tests compare."""
    match each:
        case None:
            return "nothing"
        case Row():
            return f"{lsn_of(each.version)} {each.text.partition(chr(10))[2]}"
        case Delete():
            return f"{lsn_of(each.version)} gone"
        case PartialRow():
            follows = each.follows
            named = follows.value if isinstance(follows, Follows) else lsn_of(follows)
            return f"{lsn_of(each.version)} follows {named}{' of the old key' * bool(each.old_key)}"
        case Move():
            return f"ask the lane{'' if each.held is None else ' for ' + as_text(each.held)}"
        case Donor():
            return f"{lsn_of(each.version)} stored"
        case Upsert():
            return f"{lsn_of(each.version)}"


def lsn_of(version: str) -> int:
    return int(version.split(".")[1], 16)


def refusing(*lsns: int) -> WasRefused:
    """Changes at these positions were refused, and are not in the window."""

    def was_refused(_: RowKey, version: Version, since: str) -> bool:
        return any(since < v(lsn) < version for lsn in lsns)

    return was_refused


# Which donors are allowed.


@pytest.mark.parametrize(
    ("follows", "gives"),
    [
        (v(3), {3, 4, 5}),
        (v(5), {5}),
        (UNKNOWN, {1, 2, 3, 4, 5}),
        (REFUSED, set()),
    ],
)
def test_who_may_give_a_row_what_it_lacks(follows: Followed, gives: set[int]) -> None:
    assert {lsn for lsn in range(1, 9) if may_give(v(lsn), follows, v(5))} == gives
    for lsn in range(1, 9):
        filled = fill(lacks(5, follows), donor_of_row(row(lsn, "old")), RENDERER)
        assert as_text(filled) == ("5 old" if lsn in gives else as_text(lacks(5, follows)))


def placed(version: Version, partition: int) -> Version:
    return Version(version + tail_of(place_of_partition(TOPIC, partition)))


def moved_to(partition: int, each: Pending) -> Pending:
    return each._replace(version=placed(each.version, partition))


@pytest.mark.parametrize("follows", [v(3), v(5), UNKNOWN])
def test_a_version_of_another_place_gives_nothing(follows: Followed) -> None:
    # A version between them may lie in the other partition, and not be read yet.
    for lsn in range(1, 6):
        named = follows if isinstance(follows, Follows) else placed(follows, 0)
        assert not may_give(placed(v(lsn), 0), named, placed(v(5), 1))
    assert may_give(placed(v(5), 1), placed(v(3), 1), placed(v(5), 1))


@pytest.mark.parametrize("before", [change(3, "c"), row(3, "c"), change(3, None), hidden(3, "c")])
def test_a_version_of_another_place_gives_nothing_in_its_window(before: Pending) -> None:
    settled = settle([moved_to(0, before), moved_to(1, change(5, None))], RENDERER, refusing())
    assert as_text(settled.last) == "5 follows refused"
    assert [lsn_of(each.version) for each in settled.fallbacks] == [3]
    chain = [moved_to(0, before), moved_to(1, change(4, "d")), moved_to(1, change(5, None))]
    assert as_text(settle(chain, RENDERER, refusing()).last) == "5 d"


@pytest.mark.parametrize("before", [change(3, "c"), row(3, "c"), change(3, None)])
def test_a_version_of_another_place_is_not_announced_for_a_new_key(before: Pending) -> None:
    delete = gone(5)._replace(version=placed(v(5), 1))
    assert held_in_window(delete, [moved_to(0, before)], RENDERER, refusing()) is None
    move = Move(delete, None, placed(v(3), 0))
    waits = row(3, "c")._replace(version=placed(v(3), 0))
    assert held_in_lane(move, waits, None, RENDERER) is None
    assert held_in_lane(move, None, donor_of_row(waits), RENDERER) is None


@pytest.mark.parametrize(
    ("donor", "follows"),
    [
        (lacks(4, v(2)), "5 follows 2"),
        (lacks(4, UNKNOWN), "5 follows unknown"),
        (lacks(4, REFUSED), "5 follows refused"),
        (lacks(4, v(4), OTHER), "5 follows 4 of the old key"),
        (lacks(3, v(2)), "5 follows 4"),  # change 4 lies between, and is not in the window
        (row(3, "old"), "5 follows 4"),
    ],
)
def test_what_a_donor_lacks_as_well_is_asked_for_where_it_would_ask(
    donor: Row | PartialRow, follows: str
) -> None:
    assert as_text(fill(lacks(5, v(4)), donor_of_row(donor), RENDERER)) == follows


def test_a_donor_gives_what_it_has_and_no_other_column() -> None:
    donor = lacks(4, v(2))._replace(texts={"doc": "old"}, missing=("name",))
    asks = lacks(5, v(4))._replace(texts={}, missing=("name", "doc"))
    filled = fill(asks, donor_of_row(donor), RENDERER)
    assert isinstance(filled, PartialRow)
    assert (filled.texts, filled.missing) == ({"doc": "old"}, ("name",))
    assert (filled.columns, filled.follows) == ({"kind": "page", "size": 5}, v(2))


# What a window leaves.

LONG = "x" * (MAX_VARCHAR_BYTES - 10)

SETTLED: dict[str, tuple[Sequence[Pending], str, list[str], list[int]]] = {
    # name: changes, the last one, its fallbacks, the bad ones
    "a whole row alone": ([change(5, "e")], "5 e", [], []),
    "a partial row alone": ([change(5, None)], "5 follows unknown", [], []),
    "a row over others": ([change(3, "c"), bad(4, "d"), change(5, "e")], "5 e", [], []),
    "a delete over others": ([change(4, "d"), gone(5)], "5 gone", [], []),
    "one that is bad": ([change(4, "d"), bad(5, "e")], "4 d", [], [5]),
    "all are bad": ([bad(4, "d"), bad(5, "e")], "nothing", [], [5, 4]),
    "what it lacks is in its window": ([change(3, "c"), change(5, None)], "5 c", [], []),
    "not in the one before": ([change(3, "c"), change(4, None), change(5, None)], "5 c", [], []),
    "in none of them": ([change(3, None), change(5, None)], "5 follows unknown", [], []),
    "in one that is bad": ([change(3, "c"), bad(4, "d"), change(5, None)], "5 d", [], []),
    "before one that is bad": ([change(3, "c"), bad(4, None), change(5, None)], "5 c", [], []),
    "in one that has no such column": (
        [change(3, "c"), no_column(4), change(5, None)],
        "5 follows refused",
        ["3 c"],
        [4],
    ),
    "in one that is hidden": ([change(3, "c"), hidden(4, "d"), change(5, None)], "5 d", [], []),
    "before a hidden one": ([change(3, "c"), hidden(4, None), change(5, None)], "5 c", [], []),
    "in a row of a checkpoint": ([row(3, "c"), change(5, None)], "5 c", [], []),
    "not in one of a checkpoint": ([lacks(3), change(5, None)], "5 follows unknown", [], []),
    "after a delete": ([gone(4), change(5, None)], "5 follows refused", ["4 gone"], []),
    "after a delete, twice": (
        [gone(3), change(4, None), change(5, None)],
        "5 follows refused",
        ["3 gone"],
        [],
    ),
    "after an unreadable one (2)": (
        [change(1, "a"), change(3, None), change(5, None)],
        "5 follows refused",
        ["1 a"],
        [],
    ),
    "after an unreadable one, which is a good one's fallback": (
        [change(1, "a"), change(3, "c"), change(5, None)],
        "5 c",
        [],
        [],
    ),
    "after an unreadable one, with a bad one before it": (
        [change(0, "z"), bad(1, "a"), change(3, None)],
        "3 follows refused",
        ["0 z"],
        [1],
    ),
    "from another key": ([gone(4), came(5)], "5 follows 5 of the old key", ["4 gone"], []),
    "from another key, before": (
        [gone(3), came(4), change(5, None)],
        "5 follows 4 of the old key",
        ["3 gone"],
        [],
    ),
    "whole from another key, before": ([gone(3), came(4, "d"), change(5, None)], "5 d", [], []),
    "after an unreadable one, from another key before (2)": (
        [gone(0), came(1), change(3, None)],
        "3 follows refused",
        ["0 gone", "1 follows 1 of the old key"],
        [],
    ),
    "two that follow refused ones (2)": (
        [gone(0), lacks(1, REFUSED), change(3, None)],
        "3 follows refused",
        ["0 gone"],
        [],
    ),
    "settled before": (
        [gone(0), lacks(1, v(1), OTHER), lacks(3, REFUSED)],
        "3 follows refused",
        ["0 gone", "1 follows 1 of the old key"],
        [],
    ),
    "too long with what it lacks": (
        [change(3, LONG), change(4, None), change(5, None, name="y" * 20)],
        f"4 {LONG}",
        [],
        [5],
    ),
}


@pytest.mark.parametrize("name", SETTLED)
def test_what_the_changes_of_a_window_leave(name: str) -> None:
    changes, last, fallbacks, letters = SETTLED[name]
    settled = settle(changes, RENDERER, refusing(2))
    assert as_text(settled.last) == last
    assert [as_text(each) for each in settled.fallbacks] == fallbacks
    assert [lsn_of(each.version) for each, _ in settled.bad] == letters
    if settled.last is not None:
        # Settling the result again, as after a checkpoint, changes nothing.
        again = settle([*settled.fallbacks, settled.last], RENDERER, refusing(2))
        assert again == (settled.last, settled.fallbacks, [])


@pytest.mark.parametrize(
    ("earlier", "held"),
    [
        ([], "ask the lane"),
        ([change(3, "c")], "3 c"),
        ([change(3, "c"), change(4, None)], "4 c"),
        ([change(4, None)], "ask the lane for 4 follows unknown"),
        ([came(4)], "4 follows 4 of the old key"),
        ([change(3, "c"), bad(4, "d")], "nothing"),
        ([hidden(4, "d")], "nothing"),
        ([gone(3)], "nothing"),
        ([gone(3), change(4, None)], "nothing"),
        ([change(1, "a")], "nothing"),  # a refused change lies between
        ([change(1, "a"), change(3, None)], "nothing"),
    ],
)
def test_what_a_row_held_whose_key_changed_in_its_window(
    earlier: Sequence[Pending], held: str
) -> None:
    assert as_text(held_in_window(gone(5), earlier, RENDERER, refusing(2))) == held


# What a lane does.

STORED = donor_of_row(row(3, "stored"))
HELD = Donor(v(1), {"name": "h", "doc": "held"}, {"kind": "page", "size": 1})


@pytest.mark.parametrize("database", [False, True])
@pytest.mark.parametrize(
    ("asks", "held", "stored", "donor"),
    [
        (lacks(5, v(3)), None, STORED, STORED),
        (lacks(5, v(4)), None, STORED, None),
        (lacks(5, UNKNOWN), None, STORED, STORED),
        (lacks(5, UNKNOWN), None, None, None),
        (lacks(5, REFUSED), None, STORED, None),
        (lacks(5, v(5), OTHER), None, STORED, None),
        (lacks(3, v(3), OTHER), None, STORED, STORED),  # it was written before a crash
        (lacks(5, v(5), OTHER), HELD, STORED, HELD),
        (lacks(3, v(3), OTHER), HELD, STORED, HELD),
    ],
)
def test_who_gives_in_the_lane(
    asks: PartialRow, held: Donor | None, stored: Donor | None, donor: Donor | None, database: bool
) -> None:
    if database and donor is HELD:
        # The old key's value may have come from SQL, where another row can own that key by now.
        donor = donor_in_lane(asks, None, stored, database=True)
    assert donor_in_lane(asks, held, stored, database=database) is donor


@pytest.mark.parametrize(
    ("move", "before", "stored", "held"),
    [
        (Move(gone(5), None, v(3)), None, STORED, "3 stored"),
        (Move(gone(5), None, UNKNOWN), None, STORED, "3 stored"),
        (Move(gone(5), None, v(4)), None, STORED, "nothing"),
        (Move(gone(5), None, REFUSED), None, STORED, "nothing"),
        (Move(gone(2), None, UNKNOWN), None, STORED, "nothing"),  # the key was reused later
        (Move(gone(5), None, v(4)), row(4, "d"), STORED, "4 d"),
        (Move(gone(5), None, REFUSED), row(4, "d"), STORED, "nothing"),
        (Move(gone(5), None, v(4)), lacks(4, v(3)), STORED, "4 stored"),
        (Move(gone(5), None, v(4)), lacks(4, v(2)), None, "nothing"),
        (Move(gone(5), None, v(4)), lacks(4, v(4), OTHER), STORED, "4 follows 4 of the old key"),
        (Move(gone(5), lacks(4, v(3))), None, STORED, "4 stored"),
        (Move(gone(5), lacks(4, v(3))), row(3, "c"), STORED, "4 c"),
        (Move(gone(5), lacks(4, v(3))), lacks(3, v(2)), STORED, "4 stored"),
        (Move(gone(5), lacks(4, v(3))), lacks(3, v(3), OTHER), None, "4 follows 3 of the old key"),
        (Move(gone(5), lacks(4, REFUSED)), row(3, "c"), STORED, "nothing"),
    ],
)
def test_what_a_row_held_whose_key_changed_in_its_lane(
    move: Move, before: Row | PartialRow | None, stored: Donor | None, held: str
) -> None:
    found: Held = held_in_lane(move, before, stored, RENDERER)
    assert as_text(found) == held


@pytest.mark.parametrize(
    ("asks", "before", "same"),
    [
        (lacks(5, v(3)), lacks(4, v(3)), True),
        (lacks(5, UNKNOWN), lacks(4, UNKNOWN), True),
        (lacks(5, REFUSED), lacks(4, REFUSED), True),
        (lacks(5, v(3), OTHER), lacks(4, v(3), OTHER), True),
        (lacks(5, v(4)), lacks(4, v(3)), False),
        (lacks(5, REFUSED), lacks(4, v(3)), False),
        (lacks(5, v(4)), lacks(4, v(4), OTHER), False),
        (lacks(5, v(4)), row(4, "d"), False),
        (lacks(5, v(4)), gone(4), False),
    ],
)
def test_what_need_not_be_kept_as_a_fallback(asks: PartialRow, before: Winner, same: bool) -> None:
    assert asks_the_same(asks, before) is same


@pytest.mark.parametrize(
    ("fallbacks", "stored", "newest"),
    [
        ([], None, "nothing"),
        ([gone(2), row(4, "d")], None, "4 d"),
        ([gone(2), row(4, "d")], v(4), "4 d"),
        ([gone(2), row(4, "d")], v(5), "nothing"),  # after a crash the store is ahead
        ([gone(2)._replace(version=make_version(0, NO_POSITION, 2))], v(5), "0 gone"),
    ],
)
def test_which_fallback_is_written(
    fallbacks: list[Winner], stored: Version | None, newest: str
) -> None:
    assert as_text(fall_back(fallbacks, stored)) == newest
