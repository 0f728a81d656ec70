"""A partition read by confluent-kafka: where reading starts, and what its errors become."""

from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from operators.contract.sections import KafkaSection
from operators.errors import FatalError
from operators.kafka import reader as reader_module
from operators.kafka.config import consumer_config
from operators.kafka.log_reader import BEGINNING, Bounds, OffsetGone
from operators.kafka.reader import KafkaReader

SECTION = KafkaSection(bootstrap_servers="broker:9092")


class Message:
    """A message as the client returns it: an error, or a record without a key."""

    def __init__(self, offset: int = 0, code: int | None = None) -> None:
        self._offset = offset
        self._code = code

    def error(self) -> KafkaError | None:
        return None if self._code is None else KafkaError(self._code)

    def offset(self) -> int:
        return self._offset

    def key(self) -> None:
        return None

    def value(self) -> bytes:
        return b"{}"

    def headers(self) -> None:
        return None


class Consumer:
    """A client that returns what a test sets, and remembers its assignment."""

    answers: tuple[Message, ...] = ()

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.assigned: list[TopicPartition] = []

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned = partitions

    def consume(self, _count: int, _timeout: float) -> tuple[Message, ...]:
        answers, self.answers = self.answers, ()
        return answers

    def get_watermark_offsets(self, _partition: TopicPartition, **_: Any) -> tuple[int, int]:
        return 40, 90


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Consumer]:
    class Client(Consumer):
        pass

    monkeypatch.setattr(reader_module, "Consumer", Client)
    return Client


def reader(offset: int) -> KafkaReader:
    return KafkaReader(SECTION, "cdc.docs", 3, offset, traced=False, needles=())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("auto.offset.reset", "error"),
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", False),
        ("enable.partition.eof", True),
    ],
)
def test_what_a_consumer_must_be_told(option: str, value: object) -> None:
    assert consumer_config(SECTION)[option] == value


@pytest.mark.parametrize(
    ("offset", "assigned"), [(BEGINNING, OFFSET_BEGINNING), (0, 0), (7, 7)], ids=["first", "0", "7"]
)
@pytest.mark.usefixtures("client")
def test_where_a_partition_is_read_from(offset: int, assigned: int) -> None:
    (partition,) = reader(offset)._consumer.assigned
    assert (partition.topic, partition.partition) == ("cdc.docs", 3)
    assert partition.offset == assigned


def test_an_offset_that_is_gone_is_told_with_the_first_that_is_there(
    client: type[Consumer],
) -> None:
    client.answers = (Message(code=KafkaError._AUTO_OFFSET_RESET),)
    with pytest.raises(OffsetGone) as caught:
        reader(7).read(10)
    assert caught.value.first == 40


def test_records_before_an_offset_that_is_gone_are_given_first(client: type[Consumer]) -> None:
    client.answers = (Message(7), Message(8), Message(code=KafkaError._AUTO_OFFSET_RESET))
    each = reader(7)
    assert [record[0] for record in each.read(10)[0]] == [7, 8]
    for _ in range(2):
        with pytest.raises(OffsetGone) as caught:
            each.read(10)
        assert caught.value.first == 40


def test_the_bounds_are_asked_for(client: type[Consumer], monkeypatch: pytest.MonkeyPatch) -> None:
    assert reader(7).bounds() == (40, 90)
    assert [Bounds(40, 90).lag(offset) for offset in (BEGINNING, 7, 50, 95)] == [50, 50, 40, 0]

    def fails(*_: Any, **__: Any) -> None:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    monkeypatch.setattr(client, "get_watermark_offsets", fails)
    assert reader(7).bounds() is None


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError._AUTHENTICATION,
    ],
)
def test_what_stops_the_flow(code: int, client: type[Consumer]) -> None:
    client.answers = (Message(code=code),)
    with pytest.raises(FatalError, match=r"cdc\.docs\[3\]"):
        reader(7).read(10)


def test_a_transient_error_loses_no_record(client: type[Consumer]) -> None:
    client.answers = (Message(7), Message(code=KafkaError._TRANSPORT), Message(8))
    each = reader(7)
    records, _ = each.read(10)
    assert [record[0] for record in records] == [7, 8]
    assert not each.at_end()


def test_the_end_is_told_until_there_is_more(client: type[Consumer]) -> None:
    client.answers = (Message(7), Message(code=KafkaError._PARTITION_EOF))
    each = reader(7)
    assert len(each.read(10)[0]) == 1
    assert each.at_end()
    each._consumer.answers = (Message(8),)
    assert len(each.read(10)[0]) == 1
    assert not each.at_end()


def test_a_partition_that_cannot_be_reached_for_want_of_descriptors_stops_the_flow(
    client: type[Consumer],
) -> None:
    """The client would try for ever, and the partition's rows would never be read."""
    each = reader(7)
    reason = "GroupCoordinator: Failed to create socket: Too many open files (after 0ms in state CONNECT)"
    each._consumer.config["error_cb"](KafkaError(KafkaError._TRANSPORT, reason))
    with pytest.raises(FatalError, match=r"cdc\.docs\[3\]: this process may open no more files"):
        each.read(10)


def test_a_broker_that_is_down_does_not(client: type[Consumer]) -> None:
    each = reader(7)
    each._consumer.config["error_cb"](KafkaError(KafkaError._TRANSPORT, "Connection refused"))
    assert each.read(10) == ([], [])
