"""Configuration of the Kafka clients, from the contract."""

from typing import Any

from confluent_kafka import (
    KafkaError,
)

from operators.contract.sections import KafkaSection

REQUEST_TIMEOUT_S = 10.0


def client_config(section: KafkaSection) -> dict[str, Any]:
    """Options of any client, by librdkafka's names; `[kafka.librdkafka]` overrides the others."""
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
        "isolation.level": "read_committed",  # guard: committed-only
        "queued.max.messages.kbytes": 16_384,
        "fetch.wait.max.ms": 100,
        **client_config(section),
        # The contract cannot change these: a lost offset must be an error, never skipped over.
        "auto.offset.reset": "error",  # guard: offset-reset
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        # Rowvec joins no consumer group, but the client refuses to start without a name for one.
        "group.id": "rowvec",
    }


def ignore(_error: KafkaError) -> None:
    """An `error_cb` for clients whose calls raise their errors themselves."""
