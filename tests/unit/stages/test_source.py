"""The source of one partition: the cap of an epoch, and the range that a start gathers first."""

import pickle
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flows.process.progress import figures
from operators.errors import FatalError, RetriableError
from operators.kafka.log_reader import BEGINNING, Bounds
from operators.ownership.ledger import Ledger
from operators.ownership.ledger_entries import Entry
from operators.retry import RetryPolicy
from operators.stages.epoch_budget import FIRST_CAP, MIN_CAP, EpochBudget
from operators.stages.partitions import PartitionedSource
from operators.stages.source import PartitionLogic, SourceSettings
from operators.stages.window import SourceBatch
from operators.state.source_checkpoint import STATE_FORMAT, PackedPartition, SourceState
from operators.telemetry import Telemetry
from tests.changes import TOPIC, Log, LogReader, table
from tests.fakes import MemoryLedger

MIB = 2**20


class Partition:
    """A `PartitionLogic` over a log, with a clock that only the test moves."""

    def __init__(self, log: Log, state: SourceState | None = None, **settings: Any) -> None:
        self.now = 1_000.0
        self.stopped = False
        self.epochs = 0
        self.readers: list[Any] = []
        self.log = log
        values: dict[str, Any] = {
            "batch_size": 10,
            "max_epoch_records": 100_000,
            "max_epoch_bytes": 64 * MIB,
            "epoch_interval_s": 1.0,
            "exit_at_end": False,
            **settings,
        }
        self.logic = PartitionLogic(
            TOPIC,
            3,
            self._open,
            SourceSettings(
                **{"now": lambda: self.now, "telemetry": Telemetry(), **values},
                stop=lambda: self.stopped,
                on_epoch=self._on_epoch,
            ),
            state,
        )

    def _open(self, offset: int) -> LogReader:
        unreported = isinstance(self.log, Unreported)
        reader = self.log.reader(offset) if unreported else Reader(self.log, offset)
        self.readers.append(reader)
        return reader

    def _on_epoch(self) -> None:
        self.epochs += 1

    def polls(self, count: int) -> list[SourceBatch]:
        """The batches of `count` polls."""
        return [batch for _ in range(count) for batch in self.logic.next_batch()]

    def epoch(self, seconds: float = 1.0) -> SourceState:
        """End the epoch: the checkpoint as a resume would read it."""
        self.now += seconds
        state: SourceState = pickle.loads(pickle.dumps(self.logic.snapshot()))
        return state


class Reader(LogReader):
    """A `LogReader` that counts its calls."""

    def __init__(self, log: Log, offset: int) -> None:
        super().__init__(log, 0 if offset == BEGINNING else offset)
        self.opened_at = offset
        self.asked: list[int] = []
        self.closed = False

    def read(self, max_records: int) -> Any:
        self.asked.append(max_records)
        return super().read(max_records)

    def close(self) -> None:
        self.closed = True


def log(count: int, size: int = 10) -> Log:
    return Log([(b"k", b"v" * (size - 1)) for _ in range(count)])


def at(offset: int, records: int, size: int, digest: int | None = None) -> SourceState:
    """A recovery state without a position in the ledger."""
    record = PackedPartition(
        next_offset=offset,
        epoch_records=records,
        epoch_bytes=size,
        last_digest=digest,
        collection="",
        ledger_sequence=0,
    )
    return STATE_FORMAT, record


def offsets(batches: list[SourceBatch]) -> list[int]:
    return [record[0] for batch in batches for record in batch.records]


# The first batch: the range that may have been written before the restart.


def test_a_start_gathers_to_the_end_of_a_short_partition():
    partition = Partition(log(25))
    (batch,) = partition.polls(1)
    assert offsets([batch]) == list(range(25))
    assert batch.resumed
    assert (batch.topic, batch.partition) == (TOPIC, 3)


def test_a_first_start_gathers_the_first_cap_and_no_more():
    partition = Partition(log(FIRST_CAP + 100))
    batches = partition.polls(20)
    assert offsets(batches) == list(range(FIRST_CAP))
    assert [batch.resumed for batch in batches] == [True]


def test_nothing_is_sent_before_the_whole_range_is_there():
    # The log returns the range in pieces, as Kafka does.
    source = log(300)
    source.written = 100
    partition = Partition(source, at(0, 250, MIB))
    reader = partition.readers[0]
    reader.at_end = lambda: False  # type: ignore[method-assign]
    assert partition.polls(3) == []
    source.written = 200
    assert partition.polls(3) == []
    source.written = 300
    (batch,) = partition.polls(1)
    assert offsets([batch]) == list(range(250))
    assert batch.resumed


def test_after_the_first_batch_come_small_ones():
    partition = Partition(log(45), at(0, 20, MIB))
    (first,) = partition.polls(1)
    partition.epoch()
    rest = partition.polls(3)
    assert first.resumed
    assert offsets([first]) == list(range(20))
    assert [len(batch.records) for batch in rest] == [10, 10, 5]
    assert not any(batch.resumed for batch in rest)


def test_an_empty_partition_sends_an_empty_first_batch():
    # The shards hold their rows until the first batch of each partition is there.
    partition = Partition(log(0))
    (batch,) = partition.polls(1)
    assert batch.resumed
    assert batch.records == ()
    assert partition.polls(3) == []
    assert partition.epoch()[1]["next_offset"] == BEGINNING


def test_a_resume_at_the_end_sends_an_empty_first_batch():
    partition = Partition(log(5), at(5, 500, MIB))
    (batch,) = partition.polls(1)
    assert (batch.resumed, batch.records) == (True, ())
    assert partition.epoch()[1]["next_offset"] == 5


def test_a_resume_reads_on_where_the_epoch_ended():
    source = log(12)
    partition = Partition(source, at(7, 500, MIB))
    assert partition.readers[0].opened_at == 7
    assert offsets(partition.polls(1)) == [7, 8, 9, 10, 11]


def test_a_checkpoint_while_gathering_changes_nothing():
    source = log(100)
    source.written = 50
    state = at(3, 80, MIB)
    partition = Partition(source, state, max_epoch_records=10)
    partition.readers[0].at_end = lambda: False  # type: ignore[method-assign]
    partition.polls(2)
    assert partition.epoch(100.0) == state
    source.written = 100
    assert offsets(partition.polls(1)) == list(range(3, 83))
    # Now that the range was sent, the offset is committed.
    assert partition.epoch()[1]["next_offset"] == 83


def test_smaller_settings_still_gather_the_old_range():
    before = Partition(log(3_000))
    before.polls(1)
    for _ in range(3):
        before.polls(400)
        state = before.epoch()
    gathered = state[1]["epoch_records"]
    assert gathered > MIN_CAP
    after = Partition(before.log, state, max_epoch_records=500, max_epoch_bytes=MIB)
    (batch,) = after.polls(1)
    assert len(batch.records) == min(gathered, 3_000 - state[1]["next_offset"])
    # The new settings apply from the next epoch on.
    record = after.epoch()[1]
    assert (record["epoch_records"], record["epoch_bytes"]) == (500, MIB)


def test_fewer_bytes_in_the_settings_still_gather_the_old_range():
    partition = Partition(log(60), at(0, 500, 200), max_epoch_bytes=50)
    assert offsets(partition.polls(1)) == list(range(20))
    assert partition.epoch()[1]["epoch_bytes"] == 50
    assert offsets(partition.polls(10)) == list(range(20, 25))


@pytest.mark.parametrize("caps", [(20, MIB), (100_000, 95)])
def test_replay_gathers_exactly_what_an_epoch_took(caps):
    source = log(60, size=10)
    state = at(0, *caps)
    first = Partition(source, state, batch_size=7)
    taken = offsets(first.polls(50))
    assert 0 < len(taken) < 60
    again = Partition(source, state, batch_size=3, max_epoch_records=500)
    (batch,) = again.polls(50)
    assert offsets([batch]) == taken


def test_a_first_epoch_that_crashed_is_gathered_whole_whatever_the_settings_are():
    # The crashed epoch left no state that says how much it held.
    source = log(40, size=100_000)
    before = Partition(source, max_epoch_bytes=64 * MIB)
    taken = offsets(before.polls(10))
    after = Partition(source, max_epoch_bytes=MIB, max_epoch_records=500)
    assert offsets(after.polls(10)) == taken


# The cap.


def test_nothing_beyond_the_cap_before_the_next_checkpoint():
    partition = Partition(log(5_000), at(0, 20, MIB), max_epoch_records=30)
    assert len(offsets(partition.polls(100))) == 20
    partition.epoch()
    # The configured maximum is below the source's smallest cap; the maximum wins.
    assert offsets(partition.polls(100)) == list(range(20, 50))
    assert partition.logic.next_awake() is not None
    partition.epoch()
    assert offsets(partition.polls(100)) == list(range(50, 80))


def test_the_cap_in_bytes_is_an_exact_prefix():
    partition = Partition(log(1_000, size=10), at(0, 500, 95), max_epoch_bytes=95)
    # A record is taken while the bytes before it are below the cap: 10 records of 10 bytes.
    assert offsets(partition.polls(100)) == list(range(10))
    partition.epoch()
    assert offsets(partition.polls(100)) == list(range(10, 20))
    state = partition.epoch()
    assert state[1]["next_offset"] == 20
    # Records that were fetched beyond the cap are not lost.
    assert offsets(Partition(partition.log, state, max_epoch_bytes=95).polls(100)) == list(
        range(20, 30)
    )


def test_one_record_larger_than_the_cap_passes_alone():
    source = Log([(b"k", b"v" * 1_000), (b"k", b"v"), (b"k", None)])
    partition = Partition(source, at(0, 500, 100))
    assert offsets(partition.polls(10)) == [0]
    partition.epoch()
    assert offsets(partition.polls(10)) == [1, 2]


def test_it_reads_no_more_than_it_may_send():
    partition = Partition(log(1_000), at(0, 25, MIB), max_epoch_records=25)
    partition.polls(50)
    assert sum(partition.readers[0].asked) == 25


def test_the_cap_grows_while_it_is_full_and_in_time():
    partition = Partition(log(100_000), max_epoch_records=9_000)
    caps = []
    for _ in range(4):
        partition.polls(1_000)
        caps.append(partition.epoch(1.0)[1]["epoch_records"])
    assert caps == [2_000, 8_000, 9_000, 9_000]


def test_the_cap_grows_less_where_the_work_took_the_epoch():
    partition = Partition(log(100_000), at(0, 1_000, MIB))
    caps = []
    for took in (1.0, 1.2, 3.0, 3.1):
        partition.polls(2_000)
        caps.append(partition.epoch(took)[1]["epoch_records"])
    assert caps == [4_000, 8_000, 16_000, 16_000]


def test_the_batch_that_fills_the_epoch_says_so():
    partition = Partition(log(10_000), at(0, 1_000, MIB))
    partition.polls(200)
    partition.epoch(4.0)
    batches = partition.polls(200)
    assert sum(len(batch.records) for batch in batches) == 1_000
    assert [batch.last for batch in batches] == [False] * (len(batches) - 1) + [True]
    assert len(batches) > 1


def test_the_cap_halves_when_epochs_take_too_long():
    partition = Partition(log(100_000), at(0, 4_000, MIB))
    partition.polls(1_000)
    assert partition.epoch(6.0)[1]["epoch_records"] == 4_000
    partition.polls(1_000)
    assert partition.epoch(6.5)[1]["epoch_records"] == 2_000
    partition.polls(1_000)
    assert partition.epoch(6.5)[1]["epoch_records"] == 1_000
    assert [partition.epoch(6.5)[1]["epoch_records"] for _ in range(3)] == [500, 500, 500]


def test_an_idle_partition_keeps_its_cap():
    partition = Partition(log(5), at(0, 2_000, MIB))
    partition.polls(3)
    assert [partition.epoch(1.0)[1]["epoch_records"] for _ in range(3)] == [2_000] * 3


def test_every_checkpoint_is_a_sign_of_life():
    partition = Partition(log(5))
    partition.epoch()
    partition.polls(1)
    partition.epoch()
    assert partition.epochs == 2


@given(
    st.lists(st.integers(0, 50), max_size=60),
    st.integers(1, 20),
    st.integers(1, 200),
    st.lists(st.integers(1, 9), max_size=20),
)
def test_any_partition_is_sent_once_and_in_order(sizes, records, size_cap, steps):
    source = Log([(None, b"v" * size) for size in sizes])
    state: SourceState = at(0, records, size_cap)
    partition = Partition(
        source, state, batch_size=3, max_epoch_records=records, max_epoch_bytes=size_cap
    )
    sent: list[int] = []
    for polls in [*steps, *[200] * (len(sizes) + 1)]:
        epoch = [r for batch in partition.polls(polls) for r in batch.records]
        assert len(epoch) <= records
        assert sum(len(record[2] or b"") for record in epoch[:-1]) < size_cap
        sent += [record[0] for record in epoch]
        state = partition.epoch()
        assert max(0, state[1]["next_offset"]) == len(sent)
    assert sent == list(range(len(sizes)))


@given(
    st.integers(1, 20),
    st.integers(1, 300),
    st.lists(st.integers(0, 100)),
    st.lists(st.integers(0, 5), max_size=5),
)
def test_the_budget_takes_a_prefix(records, size, sizes, limits):
    budget = EpochBudget(records, size, 1.0, 0.0)
    log = [(offset, None, b"x" * one, None) for offset, one in enumerate(sizes)]
    fetched, taken = deque(log), []
    for limit in limits:
        some = budget.take(fetched, limit)
        assert len(some) <= limit
        taken += some
    taken += budget.take(fetched, len(log))
    assert [*taken, *fetched] == log
    count = len(taken)
    assert count <= records
    assert sum(sizes[: max(0, count - 1)]) < size
    if count < len(sizes):
        assert count == records or sum(sizes[:count]) >= size
    assert budget.close_epoch(2.5, 10_000, 777) == 2.5
    assert budget.max_bytes == 777
    assert budget.room() == budget.max_records


def test_the_key_counts_as_well():
    budget = EpochBudget(10, 10, 1.0, 0.0)
    fetched = deque([(0, b"x" * 10, None, None), (1, None, None, None)])
    assert budget.take(fetched, 2) == [(0, b"x" * 10, None, None)]
    assert fetched == deque([(1, None, None, None)])


# Writes to the ledger.


def ledger_of(store: MemoryLedger) -> Ledger:
    ledger = Ledger(store, RetryPolicy(0.0, Telemetry()), (table(),))
    ledger.entries.adopt(ledger.entries.read())
    ledger.start.check(dict.fromkeys(ledger.entries.collections, "identity"))
    return ledger


def seen(store: MemoryLedger) -> list[int]:
    entries = (Entry.unpack(name, body) for name, body in store.entries.items())
    return [offset for entry in entries for offset in entry.seen.values()]


def test_an_epoch_is_told_before_anything_of_the_next_one_goes_on():
    store, source = MemoryLedger(), log(60)
    source.written = 25
    partition = Partition(source, ledger=ledger_of(store))
    assert len(offsets(partition.polls(1))) == 25
    partition.epoch()
    source.written = None
    down = RetriableError(subject="milvus", cause="down")
    store.fail_next(down, "write")
    with pytest.raises(FatalError):
        partition.polls(1)
    assert seen(store) == []
    partition = Partition(source, partition.epoch(), ledger=ledger_of(store))
    assert len(offsets(partition.polls(1))) == 35
    assert seen(store) == [25]


def test_a_state_is_held_against_what_the_collection_has_seen():
    store, source = MemoryLedger(), log(60)
    source.written = 25
    partition = Partition(source, ledger=ledger_of(store))
    partition.polls(1)
    older = partition.epoch()
    source.written = 40
    assert len(offsets(partition.polls(2))) == 15
    latest = partition.epoch()
    source.written = None
    partition.polls(1)
    for state in (None, older):
        with pytest.raises(FatalError, match="up to"):
            Partition(source, state, ledger=ledger_of(store))
    assert offsets(Partition(source, latest, ledger=ledger_of(store)).polls(1))[0] == 40


# Detecting another log.


def taken(count: int) -> tuple[Log, SourceState]:
    """A log of distinct records, and the state after `count` of them."""
    source = Log([(b"k", b"%d" % number) for number in range(20)])
    source.written = count
    partition = Partition(source)
    assert offsets(partition.polls(1)) == list(range(count))
    state = partition.epoch()
    source.written = None
    return source, state


def test_a_resume_reads_the_last_record_again_and_does_not_send_it_again():
    source, state = taken(7)
    partition = Partition(source, state)
    assert partition.readers[0].opened_at == 6
    assert offsets(partition.polls(1)) == list(range(7, 20))


def test_another_record_there_is_another_topic():
    source, state = taken(7)
    source.records[6] = (b"k", b"another")
    with pytest.raises(FatalError, match="made anew"):
        Partition(source, state)


def test_a_shorter_log_is_another_topic():
    source, state = taken(7)
    source.first, source.written = 0, 3
    with pytest.raises(FatalError, match="made anew"):
        Partition(source, state)


def test_retention_up_to_the_next_record_is_no_loss():
    source, state = taken(7)
    source.first = 7
    assert offsets(Partition(source, state).polls(1)) == list(range(7, 20))


def test_retention_past_the_next_record_is():
    source, state = taken(7)
    source.first = 8
    with pytest.raises(FatalError, match=r"offset 7 .* before 8"):
        Partition(source, state)


def test_retention_that_overtakes_a_running_flow_stops_it():
    source, state = taken(7)
    partition = Partition(source, (state[0], {**state[1], "epoch_records": 2}))
    assert offsets(partition.polls(1)) == [7, 8]
    partition.epoch()
    source.first = 12
    with pytest.raises(FatalError, match="no longer there"):
        partition.polls(1)


@given(st.integers(0, 6))
def test_a_compacted_last_record_cannot_be_compared_and_nothing_is_lost(removed):
    source, state = taken(7)
    source.compacted = set(range(removed, 7))
    assert offsets(Partition(source, state).polls(1)) == list(range(7, 20))


def test_a_broker_that_does_not_find_the_last_record_is_told():
    source, state = taken(7)
    source.silent = True
    clock = iter(range(0, 100, 5))
    with pytest.raises(FatalError, match="offset 6 was not found"):
        Partition(source, state, now=lambda: float(next(clock)), sleep=lambda _: None)


class Unreported(Log):
    """A log of a broker that does not report an offset out of range, and waits instead."""

    def reader(self, offset: int) -> LogReader:
        reader = Reader(self, offset)
        read, at_end = reader.read, reader.at_end

        def quiet(max_records: int) -> Any:
            out = not self.first <= reader._next <= self.end()
            return ([], []) if out else read(max_records)

        reader.read = quiet  # type: ignore[method-assign]
        reader.at_end = lambda: reader._next <= self.end() and at_end()  # type: ignore[method-assign]
        return reader


@pytest.mark.parametrize(
    ("held", "first", "what", "within_s"),
    [
        (0, 0, "it ends before that", 2.0),
        (3, 0, "it ends before that", 12.0),
        (20, 20, "retention has removed all before 20", 2.0),
    ],
    ids=["emptied", "shorter", "expired"],
)
def test_an_offset_out_of_range_is_noticed_where_the_broker_does_not_report_it(
    held: int, first: int, what: str, within_s: float
) -> None:
    _, state = taken(7)
    now = [0.0]

    def sleep(_: float) -> None:
        now[0] += 0.5

    remade = Unreported([(b"k", b"v") for _ in range(held)], first=first)
    with pytest.raises(FatalError, match=what):
        Partition(remade, state, now=lambda: now[0], sleep=sleep)
    assert now[0] <= within_s


def test_an_emptied_partition_goes_on_where_it_ended() -> None:
    _, state = taken(7)
    now = [0.0]

    def sleep(_: float) -> None:
        now[0] += 0.5

    emptied = Unreported([(b"k", b"v") for _ in range(7)], first=7)
    partition = Partition(emptied, state, now=lambda: now[0], sleep=sleep)
    emptied.records += [(b"k", b"new")]
    assert offsets(partition.polls(1)) == [7]


# What is told of the lag at the start.


@pytest.mark.parametrize(
    ("state", "lag"), [(None, 90), (at(0, 500, MIB), 90), (at(45, 500, MIB), 55)]
)
def test_the_lag_is_known_before_the_first_record_is_read(
    state: SourceState | None, lag: int
) -> None:
    metrics = InMemoryMetricReader()
    telemetry = Telemetry(meter_provider=MeterProvider(metric_readers=[metrics]))
    Partition(log(100), state, telemetry=telemetry, bounds={(TOPIC, 3): Bounds(10, 100)})
    assert figures(metrics).lag == lag


def test_what_is_gathered_and_not_sent_yet_counts_as_lag() -> None:
    metrics = InMemoryMetricReader()
    telemetry = Telemetry(meter_provider=MeterProvider(metric_readers=[metrics]))
    source = log(100)
    source.per_read = 30
    partition = Partition(source, at(0, 80, MIB), telemetry=telemetry)
    partition.polls(2)
    partition.epoch()
    assert figures(metrics).lag == 100
    partition.polls(1)
    partition.epoch()
    assert figures(metrics).lag == 20


def test_a_lag_that_no_broker_tells_is_not_zero() -> None:
    metrics = InMemoryMetricReader()
    telemetry = Telemetry(meter_provider=MeterProvider(metric_readers=[metrics]))
    Partition(log(100), telemetry=telemetry)
    assert figures(metrics).lag is None


# The end.


def test_a_stop_ends_it():
    partition = Partition(log(100))
    partition.polls(1)
    partition.stopped = True
    with pytest.raises(StopIteration):
        partition.logic.next_batch()


def test_a_stop_while_gathering_sends_nothing_and_loses_nothing():
    partition = Partition(log(100), at(40, 20, MIB))
    partition.stopped = True
    with pytest.raises(StopIteration):
        partition.logic.next_batch()
    assert partition.epoch() == at(40, 20, MIB)


def test_it_ends_at_the_end_if_asked_to():
    partition = Partition(log(25), at(0, 10, MIB), exit_at_end=True)
    assert len(offsets(partition.polls(2))) == 10
    partition.epoch()
    assert len(offsets(partition.polls(2))) == 15
    with pytest.raises(StopIteration):
        partition.logic.next_batch()


def test_a_full_epoch_is_not_the_end():
    partition = Partition(log(25), at(0, 10, MIB), exit_at_end=True)
    partition.polls(1)
    for _ in range(5):
        assert partition.logic.next_batch() == []


def test_what_was_fetched_and_does_not_fit_is_not_the_end():
    partition = Partition(log(25), at(0, 500, 95), max_epoch_bytes=95, exit_at_end=True)
    sent = []
    for _ in range(3):
        # The first poll has fetched everything, so the log is at its end while records are unsent.
        sent += offsets(partition.polls(1))
        if len(sent) < 25:
            assert partition.logic.next_batch() == []
        partition.epoch()
    assert sent == list(range(25))
    with pytest.raises(StopIteration):
        partition.logic.next_batch()


def test_an_empty_partition_ends_after_its_empty_batch():
    partition = Partition(log(0), exit_at_end=True)
    assert [batch.resumed for batch in partition.polls(1)] == [True]
    with pytest.raises(StopIteration):
        partition.logic.next_batch()


def test_without_being_asked_it_waits_for_more():
    source = log(10)
    source.written = 5
    partition = Partition(source)
    partition.polls(1)
    assert partition.polls(3) == []
    assert partition.logic.next_awake() is not None
    source.written = 10
    assert offsets(partition.polls(1)) == [5, 6, 7, 8, 9]
    assert partition.logic.next_awake() is None


def test_closing_closes_the_reader():
    partition = Partition(log(1))
    partition.logic.close()
    assert partition.readers[0].closed


def test_an_offset_that_never_was_stops_the_flow():
    partition = Partition(log(5), at(6, 500, MIB))
    with pytest.raises(FatalError, match="made anew"):
        partition.polls(1)


# All partitions.


def test_each_partition_resumes_from_its_own_state():
    opened: list[tuple[str, int, int]] = []

    def open_reader(topic: str, partition: int, offset: int) -> LogReader:
        opened.append((topic, partition, offset))
        return log(9).reader(offset)

    settings = Partition(log(0)).logic._settings
    source = PartitionedSource([(TOPIC, 0), ("app/odd", 7)], open_reader, settings)
    assert source.list_parts() == [f"{TOPIC}/0", "app/odd/7"]
    source.build_part("source", f"{TOPIC}/0", None)
    source.build_part("source", "app/odd/7", at(4, 500, MIB))
    assert opened == [(TOPIC, 0, BEGINNING), ("app/odd", 7, 4)]


@pytest.mark.parametrize("state", [None, at(4, 700, MIB, digest=9)], ids=["none", "some"])
def test_a_partition_that_is_not_read_is_kept_as_it_was(state: SourceState | None) -> None:
    def never(*_: Any) -> LogReader:
        raise AssertionError

    settings = Partition(log(0)).logic._settings
    recorded = [f"{TOPIC}/0", "app.public.gone/1"]
    source = PartitionedSource([(TOPIC, 0)], never, settings, recorded)
    assert source.list_parts() == recorded
    parked = source.build_part("source", "app.public.gone/1", state)
    with pytest.raises(StopIteration):
        parked.next_batch()
    kept = parked.snapshot()
    assert kept == (at(BEGINNING, FIRST_CAP, MIB) if state is None else state)
    # The table is back: its partition goes on from there, by the checks of any start.
    opened: list[int] = []

    def open_reader(_topic: str, _partition: int, offset: int) -> LogReader:
        opened.append(offset)
        return Log([(b"k", b"v")] * 9).reader(offset)

    source = PartitionedSource([("app.public.gone", 1)], open_reader, settings, recorded)
    if state is None:
        source.build_part("source", "app.public.gone/1", kept)
        assert opened == [BEGINNING]
    else:
        with pytest.raises(FatalError, match="not the topic that was read up to offset 4"):
            source.build_part("source", "app.public.gone/1", kept)
