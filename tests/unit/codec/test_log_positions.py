"""Positions sort in the order in which the changes of a row happened, for every database's log.

Small models of the servers write the logs; they are read as Debezium's sources read them.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import given

from operators.changes.version import NO_POSITION, has_position, make_version
from operators.codec.log_positions import described, position_of
from operators.errors import RecordError

Source = dict[str, Any]

# A history: transactions of statements, each of which touches some rows.
STATEMENTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=4)
HISTORIES = st.lists(STATEMENTS, min_size=1, max_size=6)


class Change(NamedTuple):
    transaction: int
    row: int
    source: Source

    @property
    def position(self) -> str:
        position = position_of(self.source)
        assert position is not None
        return position


def check(changes: list[Change]) -> None:
    """No position falls; from one transaction to the next it rises; all have one width."""
    for one, next_one in pairwise(changes):
        assert one.position <= next_one.position
        if one.transaction != next_one.transaction:
            assert one.position < next_one.position
    assert len({len(change.position) for change in changes}) <= 1


def place(**source: Any) -> str:
    position = position_of(source)
    assert position is not None
    return position


# PostgreSQL


def postgresql(commit: int | None, own: int | None, snapshot: str = "false") -> str:
    """The position of a change at a pair of LSNs, as Debezium writes them."""
    first = "null" if commit is None else f'"{commit}"'
    lsn = None if snapshot == "incremental" else own
    sequence = f'[{first},"{own}"]'
    return place(connector="postgresql", lsn=lsn, sequence=sequence, snapshot=snapshot)


def test_lsns_are_compared_as_numbers():
    places = [postgresql(None, lsn) for lsn in (9, 10, 2**33, 2**64 - 1)]
    assert places == sorted(places)


def test_the_last_of_the_sequence_stands_in_for_the_lsn():
    assert place(connector="postgresql", lsn=None, sequence='["5","6"]') == postgresql(5, 6)
    assert place(connector="postgresql", sequence='[null,"6"]') == postgresql(None, 6)
    assert place(connector="postgresql", lsn=6) == postgresql(None, 6)


def test_a_commit_after_a_snapshot_read_is_newer_than_the_read():
    # A transaction writes the row at 100 and stays open. A snapshot reads the row as it was, at 200.
    # The transaction commits; the last commit before its change is then the snapshot's own, or later.
    for kind in ("incremental", "first", "true", "last"):
        assert postgresql(190, 200, kind) < postgresql(205, 100)
    assert postgresql(190, 200, "true") < postgresql(190, 100)
    # Changes that were committed and streamed before the read are older than it.
    for kind in ("incremental", "true"):
        assert postgresql(150, 170) < postgresql(190, 200, kind)


def test_a_stream_after_an_initial_snapshot_is_newer():
    for kind in ("first", "true", "last_in_data_collection", "last"):
        assert postgresql(None, 130, kind) < postgresql(None, 140) < postgresql(150, 141)
    # Connector offsets lost, so a second snapshot: newer than everything streamed before it.
    assert postgresql(150, 160) < postgresql(None, 200, "true")


@pytest.mark.parametrize("kind", ["true", "first", "last", "incremental"])
def test_a_streamed_change_is_no_read_whatever_its_source_says(kind):
    # Restarted during an incremental snapshot, Debezium marks every streamed change as a read.
    source = {"connector": "postgresql", "lsn": 170, "sequence": '["150","170"]', "snapshot": kind}
    assert position_of(source, streamed=True) == postgresql(150, 170)


@st.composite
def interleaved(draw: st.DrawFn) -> list[Change]:
    """Concurrent transactions, each on rows of its own, in the order of streaming: by commit."""
    writers = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    turns = draw(st.permutations([n for n, count in enumerate(writers) for _ in range(count + 1)]))
    lsn, committed, written = 100, 90, {n: [] for n in range(len(writers))}
    changes: list[Change] = []
    for turn in turns:
        lsn += draw(st.integers(1, 50))
        if len(written[turn]) < writers[turn]:
            written[turn].append(lsn)
            continue
        for own in written[turn]:
            source = {"connector": "postgresql", "lsn": own, "sequence": f'["{committed}","{own}"]'}
            changes.append(Change(turn, turn, source))
        committed = lsn
    return changes


@given(interleaved())
def test_interleaved_transactions_of_postgresql(changes):
    check(changes)


# MySQL and MariaDB


class Binlog:
    """The `source` blocks that Debezium makes from a server's binlog.

    Args:
        in_cache: The events of a transaction have no position of their own: MariaDB since 11.4, or
            MySQL with binlog_transaction_compression. Debezium repeats the last one that it saw.
    """

    def __init__(self, in_cache: bool, connector: str = "mysql") -> None:
        self.in_cache = in_cache
        self.connector = connector
        self.file, self.end = 999_998, 4
        self.seen = 4
        self.row = 0
        self.transaction = 0

    def source(self, snapshot: str = "false") -> Source:
        file = f"mysql-bin.{self.file:06d}"
        where = {"file": file, "pos": self.seen, "row": self.row, "gtid": None}
        return {"connector": self.connector, "snapshot": snapshot, "ts_ms": 1, **where}

    def event(self, size: int, cached: bool = True) -> None:
        if not (cached and self.in_cache):
            self.seen = self.end
        self.end += size

    def write(self, statements: list[list[int]], size: int) -> Iterator[Change]:
        self.transaction += 1
        self.event(42, cached=False)  # the transaction's GTID event
        for rows in statements:
            self.event(size)  # the table map event
            self.event(size * len(rows))
            for self.row, row in enumerate(rows):
                yield Change(self.transaction, row, self.source())
        self.event(31, cached=False)  # the commit event

    def rotate(self) -> None:
        self.file, self.end, self.seen = self.file + 1, 4, 4

    def read(self, kind: str) -> Change:
        """A row that a snapshot reads now, between two transactions."""
        self.seen, self.row = self.end, 0
        return Change(self.transaction, 0, self.source(kind))


@given(
    st.booleans(),
    st.sampled_from(["mysql", "mariadb"]),
    st.lists(STATEMENTS | st.sampled_from(["rotate", "true", "incremental"]), max_size=9),
    st.integers(20, 2**33),
)
def test_no_change_of_a_binlog_goes_back(in_cache, connector, steps, size):
    log = Binlog(in_cache, connector)
    changes: list[Change] = []
    for step in steps:
        if step == "rotate":
            log.rotate()
        elif isinstance(step, str):
            # At the position of the next event, which has the later offset.
            changes.append(log.read(step))
        else:
            changes += log.write(step, size)
    for one, next_one in pairwise(changes):
        assert one.position <= next_one.position
    streamed = [change for change in changes if change.source["snapshot"] == "false"]
    check(streamed)


@pytest.mark.parametrize("in_cache", [False, True])
def test_a_later_statement_of_a_transaction_wins(in_cache):
    """Rows are counted from 0 in each event, so row numbers of two events have no order."""
    log = Binlog(in_cache)
    first, second = list(log.write([[0, 0, 0, 0, 0, 7], [7]], size=100))[-2:]
    assert (first.source["row"], second.source["row"]) == (5, 0)
    assert make_version(0, first.position, 10) < make_version(0, second.position, 11)
    # An UPDATE that shifts keys deletes and creates a row in one event: the offset orders them.
    gone, there = list(log.write([[3, 3]], size=100))
    assert make_version(0, gone.position, 12) < make_version(0, there.position, 13)


def test_binlog_files_are_compared_by_their_numbers():
    files = ["binlog.000001", "binlog.000002", "binlog.000010", "binlog.999999", "binlog.1000000"]
    places = [place(connector="mysql", file=file, pos=4) for file in files]
    assert places == sorted(set(places))
    assert place(connector="mysql", file="a.b-bin.000001", pos=4) == places[0]


def test_a_captured_history_of_mysql():
    """A snapshot, inserts, a statement of several rows, a transaction, a snapshot while streaming."""
    history = [
        ("true", 4_152, 0),
        ("false", 4_655, 0),
        ("false", 5_218, 0),
        ("false", 7_758, 0),
        ("false", 7_758, 2),
        ("false", 8_046, 0),
        ("false", 8_927, 0),
        ("false", 9_125, 0),
        ("incremental", 4_019_962, 0),
        ("incremental", 4_021_068, 0),
    ]
    places = [
        place(connector="mysql", file="binlog.000001", pos=pos, row=row, snapshot=snapshot)
        for snapshot, pos, row in history
    ]
    assert places == sorted(places)


# SQL Server and Db2


@given(HISTORIES, st.randoms(use_true_random=False))
def test_no_change_of_a_change_table_goes_back(history, random):
    """`change_lsn` rises only within one command, and a transaction has several."""
    changes: list[Change] = []
    lsn = 0x758
    for transaction, commands in enumerate(history):
        places = list(range(lsn, lsn + sum(map(len, commands))))
        random.shuffle(places)
        lsn += len(places)
        for rows in commands:
            for row in rows:
                source = {
                    "connector": "sqlserver",
                    "change_lsn": f"00000027:{places.pop():08x}:0003",
                    "commit_lsn": f"00000027:{lsn:08x}:0005",
                    "event_serial_no": random.randint(1, 2),
                }
                changes.append(Change(transaction, row, source))
        lsn += 1
    check(changes)


def test_a_snapshot_of_sql_server_has_no_change_lsn():
    read = place(
        connector="sqlserver",
        snapshot="true",
        change_lsn=None,
        commit_lsn="00000025:00000d98:00a2",
        event_serial_no=None,
    )
    after = place(
        connector="sqlserver",
        change_lsn="00000027:00000758:0003",
        commit_lsn="00000027:00000758:0005",
        event_serial_no=1,
    )
    assert read < after
    assert len(read) == len(after)


def test_both_widths_of_db2():
    for low, high in [
        ("00000025:00000d98:00a2", "00000025:00000D98:00A3"),
        ("00000000:00000000:00000000021f86ab", "00000000:00000000:0000000002200000"),
    ]:
        places = [place(connector="db2", commit_lsn=lsn, change_lsn=None) for lsn in (low, high)]
        assert places == sorted(set(places))
        assert {len(each) for each in places} == {32}


# Oracle


@given(interleaved())
def test_interleaved_transactions_of_oracle(changes):
    commits = {change.transaction: change.source["sequence"] for change in changes}
    numbers = {transaction: 10_000 + n for n, transaction in enumerate(commits)}
    check(
        [
            Change(
                change.transaction,
                change.row,
                {
                    "connector": "oracle",
                    "scn": str(change.source["lsn"]),
                    "commit_scn": str(numbers[change.transaction]),
                    "ssn": 0,
                    "snapshot": "false",
                },
            )
            for change in changes
        ]
    )


def oracle(
    scn: str | None, commit: str | None = None, snapshot: str = "false", ssn: int = 0
) -> str:
    return place(connector="oracle", scn=scn, commit_scn=commit, snapshot=snapshot, ssn=ssn)


def test_a_snapshot_of_oracle():
    read = oracle("1513734", snapshot="true")
    # A snapshot while streaming repeats the last streamed commit, which is not its own.
    assert oracle("1513734", commit="1513600", snapshot="last") == read
    # Written before the snapshot's SCN, and committed after it.
    assert read < oracle("1513700", "1513754") < oracle("1513750", "1513754")
    assert read < oracle("1513735", "1513735")
    assert oracle("1513730", "1513733") < read
    # They arrive as text, but are compared as numbers.
    assert oracle("999", "999") < oracle("1000", "1000") < oracle(str(2**64 - 1), str(2**64 - 1))
    # `ssn` counts within one rollback segment, so it is not an order.
    assert oracle("5", "6", ssn=9) == oracle("5", "6", ssn=1)
    # OpenLogReplicator writes only the commit's SCN.
    assert read < oracle("1513735")


# All databases

LSN = "00000025:00000d98:00a2"
BLOCKS: list[tuple[Source, str]] = [
    ({"connector": "postgresql", "lsn": 5, "sequence": '["4","5"]'}, "PostgreSQL's LSN"),
    ({"connector": "mysql", "file": "binlog.000003", "pos": 154}, "binlog file and position"),
    ({"connector": "mariadb", "file": "binlog.000003", "pos": 154}, "binlog file and position"),
    ({"connector": "sqlserver", "commit_lsn": LSN}, "commit LSN"),
    ({"connector": "db2", "commit_lsn": LSN}, "commit LSN"),
    ({"connector": "oracle", "scn": "5", "commit_scn": "6"}, "commit SCN and SCN"),
]


@pytest.mark.parametrize(("source", "name"), BLOCKS)
def test_an_order_for_people(source, name):
    assert described(source) == f"ordered by {name}"
    assert described({**source, "gtid": "0-1-5"}) == f"ordered by {name}, with GTIDs"


@pytest.mark.parametrize(("source", "name"), BLOCKS)
def test_an_unwrapped_row_names_no_connector(source, name):
    bare = {field: value for field, value in source.items() if field != "connector"}
    assert position_of(bare) == position_of(source)


@pytest.mark.parametrize(("source", "name"), BLOCKS)
def test_a_position_is_never_taken_for_none(source, name):
    assert has_position(make_version(0, place(**source), 5))
    assert not has_position(make_version(0, NO_POSITION, 5))


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"connector": "vitess", "vgtid": "[]", "ts_ms": 5},
        {"connector": "spanner", "lsn": 5, "file": 7},
        # `ts_ms` is a server's clock, which can go back, and `ord` counts within one of its seconds.
        {"connector": "mongodb", "ts_ms": 1_558_965_508_000, "ord": 31},
        {"ts_ms": 1_558_965_508_000, "ord": 31},
        {"connector": "postgresql", "lsn": None, "sequence": None},
        {"connector": "postgresql", "sequence": "[null,null]"},
        {"connector": "mysql", "file": None, "pos": None},
        {"connector": "sqlserver", "commit_lsn": None, "change_lsn": LSN},
        {"connector": "oracle", "scn": None, "commit_scn": None, "lcr_position": "0000"},
    ],
)
def test_a_source_that_tells_no_order(source):
    assert position_of(source) is None
    assert "Kafka offset alone" in described(source)


@pytest.mark.parametrize(
    ("source", "field"),
    [
        *(
            ({"connector": "postgresql", "lsn": lsn}, "lsn")
            for lsn in (-1, 2**64, True, "7", 7.5, [7])
        ),
        *(
            ({"connector": "postgresql", "lsn": 7, "sequence": sequence}, "sequence")
            for sequence in ("", "null", "[]", "[1]", "[1,2,3]", '["x",null]', "7", 7, [], {})
        ),
        ({"connector": "postgresql", "lsn": 7, "sequence": f'["{2**64}","7"]'}, "sequence"),
        ({"connector": "postgresql", "lsn": 7, "sequence": '["-1","7"]'}, "sequence"),
        ({"connector": "postgresql", "lsn": 7, "sequence": f'["{"9" * 5_000}","7"]'}, "sequence"),
        ({"connector": "postgresql", "lsn": 7, "sequence": "[1e999,7]"}, "sequence"),
        ({"connector": "postgresql", "sequence": f'[null,"{2**64}"]'}, "lsn"),
        *(
            ({"connector": "mysql", "file": file, "pos": 4}, "file")
            for file in ("", "binlog", "binlog.", "binlog.00001x", "binlog.1\n", "b.٣", 7, [7])
        ),
        ({"connector": "mysql", "file": "b." + "9" * 16, "pos": 4}, "file"),
        *(
            ({"connector": "mariadb", "file": "b.1", "pos": pos}, "pos")
            for pos in (None, -1, 2**64, True, "x", "٣", "9" * 21, 4.5, {})
        ),
        *(
            ({"connector": "sqlserver", "commit_lsn": lsn}, "commit_lsn")
            for lsn in ("", "NULL", LSN[:-1], f"{LSN}\n", "x" * 22, LSN + "0" * 13, 7, [])
        ),
        ({"connector": "db2", "commit_lsn": "00000025"}, "commit_lsn"),
        *(
            ({"connector": "oracle", "scn": "5", "commit_scn": scn}, "commit_scn")
            for scn in ("", "5:0x28:1", -1, 2**64, "5,6", [5])
        ),
        ({"connector": "oracle", "scn": "x", "commit_scn": None}, "scn"),
        ({"connector": "oracle", "scn": {}, "commit_scn": "5"}, "scn"),
    ],
)
def test_a_position_that_is_none(source, field):
    with pytest.raises(RecordError, match=f"no usable position \\('{field}'") as caught:
        position_of(source)
    assert caught.value.hint
    with pytest.raises(RecordError):
        described(source)


@pytest.mark.parametrize("odd", [[], {}, 7, None, True, ["true"]])
def test_a_block_with_anything_in_its_other_fields(odd):
    for source, _ in BLOCKS:
        assert position_of({**source, "snapshot": odd, "row": odd, "gtid": odd}) == place(**source)
        assert position_of({**source, "connector": odd}) == place(**source)
