"""Dead letters always arrive: what is too large for the topic is shortened, and the letter says so."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException

from operators.changes.events import DeadLetter, KafkaPosition
from operators.contract.sections import KafkaSection
from operators.errors import FatalError, RetriableError
from operators.kafka import dead_letters
from operators.kafka.dead_letters import DeadLetterProducer

SECTION = KafkaSection(bootstrap_servers="127.0.0.1:1")
KIB = 1024


class Broker:
    """A client and its broker. Both measure, as the real ones do: the client each record, at once; the
    broker a batch of records, in its answer.

    Attributes:
        stored: What the topic holds: (key, value, headers).
    """

    client_bytes = 1_000_000
    broker_bytes = 1_000_000
    refuses: int | None = None

    def __init__(self, _config: dict[str, Any]) -> None:
        self.stored: list[tuple[bytes, bytes | None, dict[str, bytes]]] = []
        self._batch: list[tuple[Any, int, Callable[..., None]]] = []

    def produce(
        self,
        _topic: str,
        *,
        key: bytes,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
        on_delivery: Callable[..., None],
    ) -> None:
        size = len(key) + len(value or b"") + sum(len(name) + len(text) for name, text in headers)
        if size > self.client_bytes:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        self._batch.append(((key, value, dict(headers)), size, on_delivery))

    def flush(self, _seconds: float) -> int:
        batch, self._batch = self._batch, []
        code = self.refuses
        if sum(size for _, size, _ in batch) > self.broker_bytes:
            code = KafkaError.MSG_SIZE_TOO_LARGE
        for record, _, on_delivery in batch:
            if code is None:
                self.stored.append(record)
            on_delivery(None if code is None else KafkaError(code), None)
        return 0

    def letters(self) -> dict[int, tuple[bytes | None, dict[str, str]]]:
        """Value and headers by the offset of the refused record."""
        found = {}
        for key, value, headers in self.stored:
            topic, _, offset = orjson.loads(key)
            assert topic == "docs"
            found[offset] = value, {name: text.decode() for name, text in headers.items()}
        return found


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker({})
    monkeypatch.setattr(dead_letters, "Producer", lambda config: broker)
    return broker


def letter(
    offset: int = 7, key: bytes | None = b'{"id":1}', value: bytes | None = b"{}", **more: Any
) -> DeadLetter:
    return DeadLetter(
        KafkaPosition("docs", 0, offset),
        "decode",
        more.get("subject", "docs:1"),
        more.get("cause", "it is no JSON"),
        more.get("hint", "set JsonConverter"),
        key,
        value,
        more.get("row_key", "docs:1"),
    )


def test_a_letter_that_fits_is_sent_whole(broker: Broker) -> None:
    DeadLetterProducer(SECTION).send([letter()])
    value, headers = broker.letters()[7]
    assert value == b"{}"
    assert (headers["rowvec.key"], headers["rowvec.value"]) == ('{"id":1}', "whole")
    assert "rowvec.shortened" not in headers


@pytest.mark.parametrize(
    ("key", "value", "cut"),
    [
        # 256 KiB that are no UTF-8 become 786 KB in a header; with the value it is too much.
        (b"\xff" * 256 * KIB, b"x" * 256 * KIB, "value"),
        (b"\xff" * 340 * KIB, b"{}", "value, key"),
        (b"\xff" * 340 * KIB, None, "key"),
        (b"k" * 10, b"x" * 1_000_000, "value"),
    ],
)
def test_a_letter_too_large_for_the_client_is_shortened(
    key: bytes, value: bytes | None, cut: str, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    DeadLetterProducer(SECTION).send([letter(1, key, value), letter(2)])
    sent = broker.letters()
    found, headers = sent[1]
    assert found is None
    assert headers["rowvec.shortened"] == cut
    assert headers["rowvec.value"] == "omitted"
    assert ("rowvec.key" in headers) == ("key" not in cut)
    assert (headers["rowvec.topic"], headers["rowvec.offset"]) == ("docs", "1")
    assert headers["rowvec.cause"] == "it is no JSON"
    assert sent[2][1]["rowvec.value"] == "whole"


@pytest.mark.parametrize("limit", [100_000, 10_000, 1_500])
def test_a_topic_that_takes_less_than_the_client_does(limit: int, broker: Broker) -> None:
    broker.broker_bytes = limit
    long = {"cause": "c" * 5_000, "hint": "h" * 5_000, "subject": "s" * 5_000, "row_key": "r" * 900}
    DeadLetterProducer(SECTION).send([letter(1, b"k" * 300_000, b"v" * 300_000, **long), letter(2)])
    sent = broker.letters()
    assert sent.keys() == {1, 2}
    cut = "value, key" if limit == 100_000 else "value, key, texts"
    assert sent[1][1]["rowvec.shortened"] == cut
    assert sent[2][1]["rowvec.value"] == "whole", "it was refused with its batch only"


def test_many_small_letters_that_are_too_much_together(broker: Broker) -> None:
    broker.broker_bytes = 1_500
    DeadLetterProducer(SECTION).send([letter(offset) for offset in range(20)])
    sent = broker.letters()
    assert sorted(sent) == list(range(20))
    assert all(headers["rowvec.value"] == "whole" for _, headers in sent.values())


def test_a_topic_that_takes_nothing_is_named(broker: Broker) -> None:
    broker.broker_bytes = 100
    with pytest.raises(FatalError, match=r"takes no letter about .* Raise max\.message\.bytes"):
        DeadLetterProducer(SECTION).send([letter()])


def test_another_refusal_shortens_nothing(broker: Broker) -> None:
    broker.refuses = KafkaError.TOPIC_AUTHORIZATION_FAILED
    with pytest.raises(RetriableError, match="allow writing to it"):
        DeadLetterProducer(SECTION).send([letter()])
    assert broker.stored == []


def test_texts_that_are_no_utf8_stop_no_letter(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """JSON can bring lone surrogates into names and keys, which no header can hold."""
    DeadLetterProducer(SECTION).send([letter(subject="docs:\ud800", row_key="docs:\udfff")])
    assert "docs:\\ud800" in caplog.text
    assert broker.letters()[7][1]["rowvec.subject"] == "docs:\\ud800"


def test_the_real_client_measures_at_once() -> None:
    """What `Broker` stands for: librdkafka refuses such a record in `produce`, by this code."""
    producer = DeadLetterProducer(SECTION)._producer
    with pytest.raises(KafkaException) as error:
        producer.produce("t", value=b"x" * 2_000_000)
    assert error.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE
