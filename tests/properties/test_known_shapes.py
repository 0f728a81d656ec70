"""Histories of rare shapes, step by step, each of which fails without one certain guard.

The steps are characters: a digit writes one record to that partition and reads it; w lets the time of a
window pass and writes what is due; c commits; ! crashes; S stops cleanly and starts again; L loses the
recovery state; f lets so much time pass that the version map forgets all versions.
"""

from typing import Any

import orjson
import pytest

from operators.contract.table import MAX_VARCHAR_BYTES, UNAVAILABLE
from operators.stages import source
from tests.changes import Log, doc, envelope, key, table
from tests.simulation.history import POISON, Change, Fault, Values
from tests.simulation.script import Script
from tests.simulation.tables import FILTERED, id_of, table_of
from tests.simulation.topic import topic_of

OLD, NEW = Values("name", "old"), Values("name", "new")


class Play(Script):
    """A history on two partitions, rows with an even number on the first, played step by step."""

    def __init__(self, *history: Change, lanes: int = 1) -> None:
        super().__init__(topic_of(FILTERED, history, rows=5, partitions=2), lanes=lanes)
        self._gather()

    def _gather(self) -> None:
        for number in (0, 1):
            self.poll(number)

    def __call__(self, steps: str) -> dict[int, str]:
        """Take the steps; returns the `doc` of each row that a reader sees then."""
        for step in steps.replace(" ", ""):
            match step:
                case "0" | "1":
                    self.append(int(step), 1)
                    self.poll(int(step))
                case "w":
                    self.tick()
                    self.write()
                case "c":
                    self.commit()
                case "S":
                    self.stop()
                    self._gather()
                case "f":
                    for _ in range(2):
                        self.clock.advance(3600.0)
                        for logic in self.worker.shards.values():
                            logic._versions.rotate(self.clock.now().timestamp())
                case "!":
                    self.crash()
                case "L":
                    self.lose_state()
        return self.seen()

    def seen(self) -> dict[int, str]:
        visible = self.visible()
        return {
            row: "".join(
                text for id_, text in sorted(visible.items()) if id_.startswith(f"docs:{row}#")
            ).partition("\n")[2]
            for row in range(5)
            if id_of(row) in visible
        }

    def end(self) -> dict[int, str]:
        """Read and write everything; returns the `doc` of each row that a reader sees at rest."""
        self.drain()
        return self.seen()

    def places(self) -> list[tuple[int, int]]:
        """(partition, offset) of the dead letters."""
        found = self.letters.letters
        return sorted((each.position.partition, each.position.offset) for each in found)


def put(row: int, lsn: int, values: Values = OLD, fault: Fault = Fault.NONE) -> Change:
    return Change(row, lsn, values, fault=fault)


def touched(row: int, lsn: int, values: Values = OLD, fault: Fault = Fault.NONE) -> Change:
    """A change that leaves out `doc`."""
    return Change(row, lsn, values._replace(name=f"name {lsn}"), partial=True, fault=fault)


def gone(row: int, lsn: int) -> Change:
    return Change(row, lsn, None)


def moved(old: int, new: int, lsn: int, values: Values = OLD) -> list[Change]:
    """A key change that leaves out `doc`."""
    return [
        Change(old, lsn, None, new=new),
        Change(new, lsn, values._replace(name=f"name {lsn}"), partial=True, old=old),
    ]


def emptied(lsn: int) -> list[Change]:
    return [Change(row, lsn, None, emptied=True) for row in range(5)]


# TRUNCATE.


def test_a_row_from_before_a_truncate_is_not_shown_after_it() -> None:
    play = Play(put(1, 1), *emptied(2))
    assert play("0w") == {}
    assert play("1w") == {}  # read later, but older
    assert play.end() == {}


def test_a_truncate_that_was_written_is_not_undone_by_another_partition_after_a_crash() -> None:
    play = Play(put(1, 1), *emptied(2))
    assert play("10w!") == {}
    # The row's partition is read first, before the one with the TRUNCATE.
    play.poll(1)
    assert play("w") == {}
    assert play.end() == {}


def test_a_row_that_was_known_before_a_truncate_is_known_as_gone() -> None:
    play = Play(put(1, 1), *emptied(2), put(1, 3))
    assert play("1w 0w 1w") == {1: "old"}
    assert play.end() == {1: "old"}


def test_a_row_without_a_position_is_not_taken_by_a_truncate_in_its_window() -> None:
    play = Play(Change(1, 1, OLD, unpositioned=True), *emptied(2))
    assert play("10w") == {1: "old"}


# Changes without a position.


@pytest.mark.parametrize("last", [put(1, 3, NEW), Change(1, 3, NEW, unpositioned=True)])
@pytest.mark.parametrize("first", [put(1, 1), Change(1, 1, OLD, unpositioned=True)])
def test_an_older_change_without_a_position_does_not_come_back(
    first: Change, last: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "FIRST_CAP", 1)
    middle = Change(1, 2, Values("name", "middle"), unpositioned=True)
    play = Play(first, middle, last)
    play("1wc 1wc 1wc")
    assert play("L") == {1: "new"}
    # Read again from the beginning, one record per window.
    for _ in range(8):
        play.poll(1)
        assert play("wc") == {1: "new"}
    assert play.end() == {1: "new"}


def test_a_change_without_a_position_comes_after_what_its_partition_said_before() -> None:
    play = Play(put(1, 1), Change(1, 2, NEW, unpositioned=True), put(1, 3, OLD))
    assert play("1wc 1wc") == {1: "new"}
    assert play("1w") == {1: "old"}
    assert play.end() == {1: "old"}


# Values that were refused.


@pytest.mark.parametrize(
    ("fault", "between"),
    [
        # Not "": a change that cannot be rendered gives its values within a window.
        *[(Fault.RENDER, between) for between in ("c", "w", "wc", "wc!", "c!")],
        *[(Fault.DECODE, between) for between in ("", "c", "w", "wc", "wc!", "c!")],
        *[(Fault.STORE, between) for between in ("", "c", "w", "wc", "wc!", "c!")],
    ],
)
def test_a_refused_value_is_never_replaced_by_the_one_before(fault: Fault, between: str) -> None:
    lost = Values("name", f"{POISON} lost" if fault is Fault.STORE else "lost")
    play = Play(put(1, 1), put(1, 2, lost, fault), touched(1, 3, lost._replace(doc="lost")))
    play("1wc 1" + between)
    if "!" in between:
        play.poll(0)
    assert play.end() == {1: "old"}
    # The partial row is a dead letter, too.
    assert play.places()[-1] == (1, 2)


@pytest.mark.parametrize("steps", ["1wcf", "1wc1wcf"])
@pytest.mark.parametrize("fault", [Fault.RENDER, Fault.DECODE, Fault.STORE])
def test_a_refused_value_is_remembered_for_longer_than_the_versions(
    fault: Fault, steps: str
) -> None:
    lost = Values("name", f"{POISON} lost" if fault is Fault.STORE else "lost")
    later = lost._replace(doc="lost")
    play = Play(put(1, 1), put(1, 2, lost, fault), touched(1, 3, later), touched(1, 4, later))
    play("1wc" + steps)
    assert play.end() == {1: "old"}
    assert play.places()[-1] == (1, 3)


@pytest.mark.parametrize(
    ("fault", "steps"),
    [
        *[(Fault.RENDER, steps) for steps in ("11c1w", "11c!", "11S1w", "1w1w1w")],
        *[(Fault.DECODE, steps) for steps in ("111w", "1c11w", "11c1w", "111c", "111c!")],
        *[(Fault.DECODE, steps) for steps in ("11c!", "11S1w", "1w1w1w")],
    ],
)
def test_what_a_refused_value_has_superseded_is_shown(fault: Fault, steps: str) -> None:
    lost = Values("name", "lost")
    play = Play(put(1, 1), put(1, 2, NEW), put(1, 3, lost, fault), touched(1, 4, lost))
    play("1wc" + steps)
    assert play.end() == {1: "new"}
    assert set(play.places()) == {(1, 2), (1, 3)}


@pytest.mark.parametrize("steps", ["111w", "1c11w", "111c", "111c!"])
def test_a_row_that_cannot_be_rendered_gives_what_it_says_within_its_window(steps: str) -> None:
    last = Values("name", "last")
    play = Play(put(1, 1), put(1, 2, NEW), put(1, 3, last, Fault.RENDER), touched(1, 4, last))
    play("1wc" + steps)
    assert play.end() == {1: "last"}
    assert play.places() == []


def test_what_a_refused_value_has_superseded_is_held_against_the_store_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source, "FIRST_CAP", 4)
    newest = Values("name", "newest")
    history = [put(1, 1), put(1, 2, NEW), put(1, 3, fault=Fault.RENDER), touched(1, 4)]
    play = Play(*history, put(1, 5, newest))
    play("1wc 1wc 1wc 1wc 1wc")
    play("L")
    for _ in range(4):
        # Read again from the beginning: the first four records in one window.
        play.poll(1)
        play.poll(0)
        assert play("wc") == {1: "newest"}
    assert play.end() == {1: "newest"}


def test_a_row_whose_parts_are_too_long_together_stops_nothing() -> None:
    half = "x" * (MAX_VARCHAR_BYTES * 2 // 3)
    long = {**doc(0, UNAVAILABLE), "name": half}
    records = [
        (key(id=0), envelope("u", 1, doc(0, half))),
        (key(id=0), envelope("u", 2, long)),
        (key(id=0), envelope("d", 3, None), [("__debezium.newkey", key(id=1))]),
        (key(id=1), envelope("c", 3, doc(1, UNAVAILABLE)), [("__debezium.oldkey", key(id=0))]),
        (key(id=2), envelope("c", 4, doc(2))),
    ]
    for together in (2, 4, 5):
        script = Script([Log(list(records), written=0)])
        script.append(0, together)
        script.drain()
        assert script.visible() == {id_of(2): "doc 2\ntext"}
        assert script.letters.letters
    script = Script([Log(records[:2])])
    script.drain()
    assert script.visible() == {id_of(0): f"doc 0\n{half}"}
    (letter,) = script.letters.letters
    assert letter.position.offset == 1


def test_a_whole_row_ends_the_doubt() -> None:
    play = Play(put(1, 1), put(1, 2, fault=Fault.RENDER), put(1, 3, NEW), touched(1, 4, NEW))
    assert play("1w1w1w1w") == {1: "new"}
    assert play.places() == [(1, 1)]


def test_a_good_row_before_a_bad_one_is_not_in_doubt() -> None:
    play = Play(put(1, 1), touched(1, 2), put(1, 3, fault=Fault.RENDER))
    play("1wc 11w")
    assert play.end() == {1: "old"}
    assert play.places() == [(1, 2)]


COPIES = ["w".join("00000"), "00000", "0c0c0c0c0", "000c!00", "00S000"]


@pytest.mark.parametrize("steps", COPIES)
def test_a_change_that_is_sent_again_after_an_unreadable_one_is_in_doubt(steps: str) -> None:
    # The unreadable record may be a change between the change and its copy.
    later = [touched(0, 2), touched(0, 3, fault=Fault.DECODE)]
    play = Play(put(0, 1), *later, *later)
    play("0wc" + steps)
    assert play.end() == {0: "old"}
    assert play.places() == [(0, 2), (0, 3), (0, 4)]


@pytest.mark.parametrize("steps", COPIES)
def test_an_unreadable_change_that_is_sent_again_leaves_no_older_value(steps: str) -> None:
    lost = put(0, 2, Values("name", "lost"), Fault.DECODE)
    later = [lost, put(0, 3, NEW), touched(0, 4, NEW)]
    play = Play(put(0, 1), *later, *later)
    play("0wc0" + steps)
    assert play.end() == {0: "new"}
    assert play.places() == [(0, 1), (0, 4), (0, 6)]


@pytest.mark.parametrize("steps", ["000w", "0w0w0w", "0c0c0c", "0w0c!0"])
def test_changes_at_one_position_are_not_taken_for_one_change(steps: str) -> None:
    # Two changes of a row in one transaction of SQL Server have the same position.
    lost = Values("name", "lost")
    play = Play(put(0, 1), put(0, 1, lost, Fault.DECODE), touched(0, 1, lost))
    play(steps)
    assert play.end() == {0: "old"}
    assert play.places() == [(0, 1), (0, 2)]


def test_a_row_that_was_hidden_is_not_shown_as_it_was() -> None:
    draft = NEW._replace(kind="draft")
    play = Play(put(1, 1), put(1, 2, draft), touched(1, 3, NEW))
    assert play("1w1w1w") == {}
    assert play.places() == [(1, 2)]
    # Within one window, the hidden row gives its values.
    play = Play(put(1, 1), put(1, 2, draft), touched(1, 3, NEW))
    assert play("1w11w") == {1: "new"}


def test_a_delete_is_not_lost_with_what_came_after_it() -> None:
    draft = NEW._replace(kind="draft")
    play = Play(put(1, 1), put(1, 2, draft), touched(1, 3, NEW))
    play("1wc")
    # The lane writes both windows at once.
    for _ in range(2):
        play.append(1, 1)
        play.poll(1)
        play.tick()
    play.write(lane=0)
    assert play.seen() == {}
    assert play.places() == [(1, 2)]


# Key changes.


@pytest.mark.parametrize(
    "steps", ["0 1 w", "1 0 w", "1w 0w", "0w 1w", "1w S 0", "01S", "10S", "1c0cw"]
)
@pytest.mark.parametrize("backward", [False, True])
def test_a_left_out_value_goes_with_its_row(steps: str, backward: bool) -> None:
    # The shard of row 0 runs before that of row 1, so both directions are tested.
    old, new = (1, 0) if backward else (0, 1)
    play = Play(put(old, 1), *moved(old, new, 2))
    for each in ("0wc", steps):
        play(each.translate(str.maketrans("01", "10")) if backward else each)
    assert play.end() == {new: "old"}
    assert play.places() == []


@pytest.mark.parametrize(
    "steps", ["00 1 w", "1 00 w", "1w 00w", "0w01w", "00c1w", "001S", "0 1 0w"]
)
@pytest.mark.parametrize("change", [put(0, 2, NEW), touched(0, 2)])
def test_a_left_out_value_goes_with_a_row_that_was_just_changed(steps: str, change: Change) -> None:
    assert change.values is not None
    play = Play(put(0, 1), change, *moved(0, 1, 3, change.values))
    play("0wc")
    play(steps)
    assert play.end() == {1: change.values.doc}
    assert play.places() == []


@pytest.mark.parametrize(
    "order", ["001", "100", "0101", "00000111", "11000", "0c1c0c1c", "0w1w0w1w0w1"]
)
def test_rows_that_change_places(order: str) -> None:
    history = [put(0, 1, OLD), put(1, 2, NEW)]
    history += [*moved(0, 3, 3, OLD), *moved(1, 0, 4, NEW), *moved(3, 1, 5, OLD)]
    play = Play(*history)
    play("0 1 wc" + order)
    assert play.end() == {0: "new", 1: "old"}
    assert play.places() == []


def test_rows_that_change_places_wait_no_longer_than_a_few_windows() -> None:
    history = [put(0, 1, OLD), put(1, 2, NEW)]
    history += [*moved(0, 3, 3, OLD), *moved(1, 0, 4, NEW), *moved(3, 1, 5, OLD)]
    play = Play(*history)
    assert play("0 1 wc 000000 1111111 wwww") == {0: "new", 1: "old"}


@pytest.mark.parametrize("steps", ["1111w", "11c11w", "111c!11c", "111S11", "1w1w1w1w", "11w11w"])
@pytest.mark.parametrize("told", [False, True])
def test_below_a_row_that_cannot_be_completed_is_the_newest_that_can(
    steps: str, told: bool
) -> None:
    lost = Values("name", "lost")
    delete, create = moved(0, 1, 5, NEW)
    history = [put(1, 1), gone(1, 4), create, put(1, 6, lost, Fault.DECODE), touched(1, 7, lost)]
    play = Play(put(0, 2, NEW), *([delete] if told else []), *history)
    play.oracle.excuses.lost = not told  # as if the process of the delete had died
    play("0 1 wc" + "0w" * told + steps)
    if "!" in steps:
        assert play.end() == (
            {} if told else {0: "new"}
        )  # the delivered values died with the process
        return
    assert play.end() == ({1: "new"} if told else {0: "new"})
    assert {(1, 3), (1, 4)} <= set(play.places())
    assert ((1, 2) in play.places()) is not told


def test_a_fallback_that_the_store_has_overtaken_is_not_written_after_a_crash() -> None:
    # Row 1 gets another key and returns: the delete is the fallback of the last change.
    history = [put(1, 1), gone(1, 2), put(0, 3), *moved(0, 1, 4), *moved(1, 0, 5), *moved(0, 1, 6)]
    play = Play(*history)
    play("1 1 1 w 0 w c")
    assert play("01ww 110ww 001ww 011www") == {1: "old"}
    # Everything is read again in one window, and the values of the old key are lost.
    assert play("!") == {1: "old"}
    assert play.end() == {1: "old"}
    assert play.places() == []


def test_what_a_row_held_is_not_what_was_written_before_a_refused_change() -> None:
    lost = Values("name", "lost")
    play = Play(put(0, 1), put(0, 2, lost, Fault.DECODE), *moved(0, 1, 3, lost))
    for number in (0, 0, 0, 1):
        play.append(number, 1)
        play.poll(number)
        play.tick()
    # The lane writes the row and its delete at once.
    play.write(lane=0)
    assert play.end() == {}
    assert play.places() == [(0, 1), (1, 0)]


def test_a_change_of_the_key_that_is_sent_again_finds_its_row_whole() -> None:
    change = moved(0, 1, 2)
    play = Play(put(0, 1), *change, *change)
    play("0wc 0 1 w")
    for steps in ("0w0w", "1w1w"):
        play(steps)
    assert play.end() == {1: "old"}
    assert play.places() == []


@pytest.mark.parametrize("steps", ["00 1 w", "0w 0w 1w", "0 00 1 w"])
def test_a_delete_that_is_sent_again_does_not_forget_what_the_first_one_held(steps: str) -> None:
    delete, create = moved(0, 1, 2)
    play = Play(put(0, 1), delete, delete, create)
    play("0wc" + steps)
    assert play.end() == {1: "old"}
    assert play.places() == []


def test_a_delete_that_is_sent_again_does_not_speak_before_its_lane() -> None:
    delete, create = moved(4, 1, 2)
    play = Play(put(4, 1), delete, delete, create, lanes=2)
    play("0wc 00 1")
    for _ in range(2):
        play.tick()
        play.write(lane=0)  # the lane of the new key
    assert play.places() == []
    assert play.end() == {1: "old"}
    assert play.places() == []


def test_changes_of_the_key_without_a_position_are_not_taken_for_one_another() -> None:
    # Row 0 changes its key twice, each time with other values.
    def unwrapped(row: int, text: str, old: int | None = None) -> tuple[Any, ...]:
        value = orjson.dumps({**doc(row, text), "gone": False, "__deleted": "false"})
        headers = [] if old is None else [("__debezium.oldkey", key(id=old))]
        return key(id=row), value, headers

    def removed(row: int, new: int) -> tuple[Any, ...]:
        value = orjson.dumps({"id": row, "__deleted": "true"})
        return key(id=row), value, [("__debezium.newkey", key(id=new))]

    logs = [
        Log([unwrapped(0, "one"), removed(0, 1), unwrapped(0, "two"), removed(0, 3)], written=0),
        Log([unwrapped(1, UNAVAILABLE, 0), unwrapped(3, UNAVAILABLE, 0)], written=0),
    ]
    script = Script(logs, table_of(table(shape="unwrapped")))
    for number in (0, 1, 0, 0, 0, 1, 0):
        script.append(number, 1)
        script.poll(number)
        script.tick()
        script.write()
    script.drain()
    assert script.visible() == {}
    assert len(script.letters.letters) == 2


def test_a_row_under_its_new_key_that_was_written_before_a_crash() -> None:
    play = Play(put(0, 1), *moved(0, 1, 2))
    play("0wc 0 1 www")
    assert play("!") == {1: "old"}
    assert play.end() == {1: "old"}
    assert play.places() == []


@pytest.mark.parametrize("fault", list(Fault)[1:])
def test_a_refused_value_does_not_go_with_its_row_and_nor_does_the_one_before(fault: Fault) -> None:
    lost = Values("name", f"{POISON} lost" if fault is Fault.STORE else "lost")
    for steps in ("0w 0w 1w", "00 1w", "0c0c1w"):
        play = Play(put(0, 1), put(0, 2, lost, fault), *moved(0, 1, 3, OLD._replace(doc="lost")))
        play("0wc" + steps)
        assert play.end() == {}
        assert play.places()[-1] == (1, 0)


@pytest.mark.parametrize("fault", [Fault.RENDER, Fault.DECODE])
def test_nor_if_all_of_it_is_in_one_window(fault: Fault) -> None:
    lost = Values("name", "lost")
    play = Play(put(0, 1), put(0, 2, lost, fault), *moved(0, 1, 3, OLD._replace(doc="lost")))
    play("0001w")
    assert play.end() == {}
    assert play.places()[-1] == (1, 0)


def test_what_waits_in_a_checkpoint_is_not_read_back_from_the_store_after_a_crash() -> None:
    # The store has an older text; only the process that died knew the last one.
    play = Play(put(0, 1), put(0, 2, NEW), *moved(0, 1, 3, NEW))
    play("0wc 00 1 c !")
    assert play.end() == {}
    assert play.places() == [(1, 0)]


def test_what_the_store_has_of_a_later_life_of_the_key_does_not_go_with_the_row() -> None:
    play = Play(put(0, 1), *moved(0, 1, 2), put(0, 3, NEW), gone(1, 4))
    play("0wc 00 0 w1w1wc")
    assert play("L") == {0: "new"}
    play.end()


def test_many_rows_that_change_their_keys_at_once() -> None:
    # Enough to overflow a bounded table of moves; no row may wait for an entry that was dropped.
    rows = range(0, 1_000, 2)
    first = [(key(id=row), envelope("c", row + 1, doc(row, f"text {row}"))) for row in rows]
    logs = [Log([*first], written=len(first)), Log([], written=0)]
    for row in rows:
        lsn, new = 10_000 + row, 5_001 + row
        logs[0].records.append(
            (key(id=row), envelope("d", lsn, None), [("__debezium.newkey", key(id=new))])
        )
        after = doc(new, UNAVAILABLE)
        old_key = [("__debezium.oldkey", key(id=row))]
        logs[1].records.append((key(id=new), envelope("c", lsn, after), old_key))
    script = Script(logs, batch_size=500, lanes=2)
    script.drain()
    assert script.letters.letters == []
    assert script.visible() == {id_of(5_001 + r): f"doc {5_001 + r}\ntext {r}" for r in rows}
    assert len(script.worker.shared.moves._kept) == 0
