"""Options of the Kafka clients: what would break a guarantee, or no client takes, is refused by name.

The clients are real; no broker is needed, because a client checks its options when it is made.
"""

from pathlib import Path
from typing import Any

import pytest

from operators.contract.sections import KafkaSection
from operators.errors import FatalError
from operators.kafka.config import (
    check_clients,
    client_config,
    consumer_config,
    producer_config,
)


def section(**more: Any) -> KafkaSection:
    return KafkaSection(bootstrap_servers="127.0.0.1:1", **more)


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("auto.offset.reset", "latest", "skipped without a word"),
        ("auto.offset.reset", "earliest", "skipped without a word"),
        ("enable.auto.commit", True, "in its recovery files"),
        ("auto.commit.enable", "true", "in its recovery files"),
        ("enable.auto.offset.store", True, "in its recovery files"),
        ("enable.partition.eof", False, "the end of a partition"),
        ("isolation.level", "read_uncommitted", "aborted transactions"),
        ("group.id", "mine", "joins no consumer group"),
        ("allow.auto.create.topics", True, "would be created"),
        ("enable.idempotence", False, "stored twice"),
        ("acks", 1, "could be lost"),
        ("acks", "0", "could be lost"),
        ("request.required.acks", 1, "could be lost"),
        ("transactional.id", "mine", "outside of transactions"),
        ("partitioner", "random", "the same partition"),
        ("delivery.report.only.error", True, "what was stored"),
        ("bootstrap.servers", "elsewhere:9092", "bootstrap_servers in [kafka]"),
        ("metadata.broker.list", "elsewhere:9092", "bootstrap_servers in [kafka]"),
        ("test.mock.num.brokers", 3, "in the place of Kafka"),
        ("logger", "x", "no option of librdkafka"),
    ],
)
def test_an_option_that_would_break_a_guarantee_is_refused_for_every_client(
    option: str, value: str | int | bool, reason: str
) -> None:
    given = section(librdkafka={option: value})
    for config in (client_config, consumer_config, producer_config, check_clients):
        with pytest.raises(FatalError) as error:
            config(given)
        assert error.value.subject == f'"{option}" in [kafka.librdkafka]'
        assert reason in error.value.cause
        assert error.value.hint == "remove it"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("enable.auto.commit", False),
        ("acks", "all"),
        ("acks", -1),
        ("enable.idempotence", "true"),
        ("isolation.level", "read_committed"),
        ("auto.offset.reset", "error"),
        ("fetch.wait.max.ms", 10),
        ("socket.timeout.ms", 10_000),
        ("client.id", "mine"),
    ],
)
def test_what_changes_no_guarantee_may_be_set(option: str, value: str | int | bool) -> None:
    check_clients(section(librdkafka={option: value}))


@pytest.mark.parametrize(
    ("options", "subject", "cause"),
    [
        ({"foo": 1}, '"foo" in [kafka.librdkafka]', "No such configuration property"),
        ({"fetch.wait.max.m": 10}, '"fetch.wait.max.m" in', "No such configuration property"),
        ({"fetch.wait.max.ms": 10**9}, '"fetch.wait.max.ms" in', "outside allowed range"),
        ({"debug": "everything"}, '"debug" in [kafka.librdkafka]', "Invalid value"),
        ({"max.in.flight": 10}, '"max.in.flight" in', "enable.idempotence"),
        ({"session.timeout.ms": 10**6}, '"session.timeout.ms" in', "max.poll.interval.ms"),
        ({"oauth_cb": "f"}, '"oauth_cb" in [kafka.librdkafka]', "callable"),
        ({"plugin.library.paths": "none"}, "[kafka]", "cannot open shared object file"),
        ({"default.topic.config": "x"}, "[kafka]", "refuses it"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_an_option_that_the_client_refuses_is_named(
    options: dict[str, Any], subject: str, cause: str
) -> None:
    with pytest.raises(FatalError) as error:
        check_clients(section(librdkafka=options))
    assert error.value.subject.startswith(subject)
    assert cause in error.value.cause
    assert "KafkaError{" not in error.value.cause


KEY = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIIBSDBzBgkqhkiG9w0BBQ0wZjAkBgkqhkiG9w0BBQwwFwQQ
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.mark.parametrize(
    ("given", "subject", "text"),
    [
        ({"ca_file": "none.pem"}, "ca_file", "is not there. Name a file of PEM certificates"),
        ({"ca_file": "text"}, "ca_file", "no certificate or crl found. Name a file of PEM"),
        ({"certificate_file": "none.pem"}, "certificate_file", "is not there"),
        ({"key_file": "none.pem"}, "key_file", "is not there"),
        ({"key_file": "key"}, "key_file", "its key_password if it is encrypted"),
        ({"key_file": "text"}, "key_file", "Name a PEM key"),
    ],
)
def test_a_file_for_tls_that_is_none_is_named_by_its_key(
    given: dict[str, str], subject: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("nothing of the kind")
    (tmp_path / "key").write_text(KEY)
    files = {name: tmp_path / path for name, path in given.items()}
    with pytest.raises(FatalError) as error:
        check_clients(section(security_protocol="SSL", **files))
    assert error.value.subject == f"{subject} in [kafka]"
    assert text in str(error.value)


def test_what_the_protocol_would_leave_unused_is_refused(tmp_path: Path) -> None:
    """Who names a certificate believes that the connection is encrypted."""
    with pytest.raises(FatalError, match=r"ca_file in \[kafka\]: is set, and .* PLAINTEXT"):
        check_clients(section(ca_file=tmp_path))
    with pytest.raises(FatalError, match=r"username in \[kafka\]: .* Make security_protocol SASL"):
        check_clients(section(username="me", password="secret", security_protocol="SSL"))
    # The client's own option counts as well.
    check_clients(
        section(
            username="me",
            password="secret",
            librdkafka={"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN"},
        )
    )


def test_a_mechanism_without_its_password_is_refused() -> None:
    with pytest.raises(FatalError, match=r"password in \[kafka\]: .*must be set"):
        check_clients(section(security_protocol="SASL_SSL", sasl_mechanism="PLAIN"))
