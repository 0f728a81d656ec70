"""Configuration of the Kafka clients, from the contract, and the options that it may not have."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
)
from confluent_kafka.admin import AdminClient

from operators.contract.sections import KafkaSection
from operators.errors import FatalError

REQUEST_TIMEOUT_S = 10.0


class _Own(NamedTuple):
    """An option that Rowvec sets itself: values that change nothing, and what others would break."""

    allowed: tuple[str, ...]
    reason: str


_COMMITS = _Own(
    ("false",), "Rowvec keeps offsets in its recovery files, beside the state that belongs to them"
)

_ACKS = _Own(("all", "-1"), "a dead letter could be lost after its record counts as done")

_SERVERS = _Own((), "the brokers are named by bootstrap_servers in [kafka]")

_OWN: Mapping[str, _Own] = {
    "auto.offset.reset": _Own(("error",), "records that are gone would be skipped without a word"),
    "enable.auto.commit": _COMMITS,
    "auto.commit.enable": _COMMITS,
    "enable.auto.offset.store": _COMMITS,
    "enable.partition.eof": _Own(("true",), "Rowvec would not notice the end of a partition"),
    "isolation.level": _Own(("read_committed",), "rows of aborted transactions would be written"),
    "group.id": _Own(("rowvec",), "Rowvec joins no consumer group: its lease says who reads"),
    "allow.auto.create.topics": _Own(
        ("false",), "a topic that is missing would be created, and nobody would hear of it"
    ),
    "enable.idempotence": _Own(("true",), "dead letters could be stored twice, or change places"),
    "acks": _ACKS,
    "request.required.acks": _ACKS,
    "transactional.id": _Own(
        (), "Rowvec sends outside of transactions, which such a client refuses"
    ),
    "partitioner": _Own(
        ("consistent_random",), "a dead letter and the mark that closes it need the same partition"
    ),
    "delivery.report.only.error": _Own(("false",), "Rowvec would not learn what was stored"),
    "bootstrap.servers": _SERVERS,
    "metadata.broker.list": _SERVERS,
    "test.mock.num.brokers": _Own((), "it puts empty brokers in the place of Kafka"),
    "logger": _Own((), "it is no option of librdkafka"),
}
"""Options that decide about a guarantee. `[kafka.librdkafka]` may not change them."""

_FILES = {
    "ca_file": "ssl.ca.location",
    "certificate_file": "ssl.certificate.location",
    "key_file": "ssl.key.location",
}

_KEYS = {
    **_FILES,
    "key_password": "ssl.key.password",
    "sasl_mechanism": "sasl.mechanism",
    "username": "sasl.username",
    "password": "sasl.password",
}
"""librdkafka's name of each key of [kafka] that a client may refuse."""

_HINTS = {
    "ca_file": "name a file of PEM certificates",
    "certificate_file": "name a PEM certificate that belongs to key_file",
    "key_file": "name a PEM key, and its key_password if it is encrypted",
}


def client_config(section: KafkaSection) -> dict[str, Any]:
    """Options of any client, by librdkafka's names; `[kafka.librdkafka]` overrides the others.

    Raises:
        FatalError: `[kafka.librdkafka]` has an option that would break a guarantee.
    """
    _refuse_own(section)
    config: dict[str, Any] = {
        "bootstrap.servers": section.bootstrap_servers,
        "security.protocol": section.security_protocol,
        "client.id": "rowvec",
    }
    optional = {
        "sasl.mechanism": section.sasl_mechanism,
        "sasl.username": section.username,
        "sasl.password": section.password and section.password.get_secret_value(),
        "ssl.ca.location": section.ca_file and str(section.ca_file),
        "ssl.certificate.location": section.certificate_file and str(section.certificate_file),
        "ssl.key.location": section.key_file and str(section.key_file),
        "ssl.key.password": section.key_password and section.key_password.get_secret_value(),
    }
    config.update({name: value for name, value in optional.items() if value})
    config.update(section.librdkafka)
    # Rowvec reports errors itself; the client's own lines on stderr would repeat them.
    config.setdefault("log_level", 2)
    return config


def consumer_config(section: KafkaSection) -> dict[str, Any]:
    """Options of a consumer that is assigned one partition and never commits an offset."""
    return {
        "queued.max.messages.kbytes": 16_384,
        "fetch.wait.max.ms": 100,
        **client_config(section),
        "isolation.level": "read_committed",  # guard: committed-only
        # A lost offset must be an error, never skipped over.
        "auto.offset.reset": "error",  # guard: offset-reset
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        # Rowvec joins no consumer group, but the client refuses to start without a name for one.
        "group.id": "rowvec",
    }


def producer_config(section: KafkaSection) -> dict[str, Any]:
    """Options of a producer that reports for each record whether it is stored."""
    return {
        "linger.ms": 5,
        "delivery.timeout.ms": int(REQUEST_TIMEOUT_S * 3_000),
        **client_config(section),
        "enable.idempotence": True,
        "error_cb": ignore,
    }


def check_clients(section: KafkaSection) -> None:
    """Make each kind of client once, with the options that the flow uses, and drop it.

    The client refuses a wrong option when it is made. Without this, that would be after the checks,
    while the lease is held. No broker is asked.

    Raises:
        FatalError: A file is missing, or a client refuses an option; the message names it.
    """
    protocol = str(client_config(section)["security.protocol"]).upper()
    for key in _FILES:
        path = getattr(section, key)
        if path is None:
            continue
        if not protocol.endswith("SSL"):
            raise _unused(key, protocol)
        if not path.exists():
            raise FatalError(
                subject=f"{key} in [kafka]", cause=f"'{path}' is not there", hint=_HINTS[key]
            )
    if section.username is not None and not protocol.startswith("SASL"):
        raise _unused("username", protocol)
    makers: tuple[tuple[Callable[[dict[str, Any]], object], dict[str, Any]], ...] = (
        (Consumer, {**consumer_config(section), "error_cb": ignore}),
        (Producer, producer_config(section)),
        (AdminClient, {**client_config(section), "error_cb": ignore}),
    )
    for make, config in makers:
        try:
            client = make(config)
        # confluent-kafka raises the others for options that are its own and no text.
        except (KafkaException, TypeError, AttributeError, ValueError) as error:
            raise _refused(section, error) from None
        if isinstance(client, Consumer):
            client.close()


def ignore(_error: KafkaError) -> None:
    """An `error_cb` for clients whose calls raise their errors themselves."""


def _refuse_own(section: KafkaSection) -> None:
    for name, value in section.librdkafka.items():
        own = _OWN.get(name)
        if own is not None and str(value).lower() not in own.allowed:  # guard: own-options
            raise FatalError(
                subject=f'"{name}" in [kafka.librdkafka]',
                cause=f"may not be set: {own.reason}",
                hint="remove it",
            )


def _refused(section: KafkaSection, error: Exception) -> FatalError:
    """The error for a client that refuses its options, about the option that its message names."""
    text = error.args[0].str() if isinstance(error, KafkaException) else str(error)
    text = " ".join(text.split())
    if text.startswith("Failed to create"):
        text = text.partition(": ")[2]
    subject, hint = "[kafka]", "correct it"
    for key, name in _KEYS.items():
        if name in text and name not in section.librdkafka:
            subject, hint = f"{key} in [kafka]", _HINTS.get(key, hint)
    for name in sorted(section.librdkafka, key=len):
        if name in text:
            subject, hint = f'"{name}" in [kafka.librdkafka]', "correct it, or remove it"
    return FatalError(subject=subject, cause=f"the Kafka client refuses it: {text}", hint=hint)


def _unused(key: str, protocol: str) -> FatalError:
    return FatalError(
        subject=f"{key} in [kafka]",
        cause=f"is set, and security_protocol is {protocol}, which does not use it",
        hint=f"make security_protocol {'SSL or SASL_SSL' if key in _FILES else 'SASL_SSL'}",
    )
