"""Addresses: what is one, and which secrets would cross a network without TLS."""

from typing import Any

import pytest
from pydantic import ValidationError

from operators.contract import table as module
from operators.contract.addresses import is_loopback, is_proxy, unencrypted
from operators.contract.sections import (
    Contract,
    KafkaSection,
    MilvusSection,
    SchemaRegistrySection,
)
from operators.contract.table import Mask
from tests.changes import table

FAR = "milvus.example"


def contract(
    milvus: dict[str, Any] | None = None,
    kafka: dict[str, Any] | None = None,
    registry: dict[str, Any] | None = None,
) -> Contract:
    return Contract.model_validate(
        {
            "kafka": {"bootstrap_servers": "k:9092", **(kafka or {})},
            "milvus": {"uri": "./milvus.db", **(milvus or {})},
            "embedding": {"model": "m"},
            "schema_registry": registry,
            "tables": [table()],
        }
    )


@pytest.mark.parametrize(
    "uri",
    [
        "http://milvus:19530",
        "https://milvus",
        "tcp://10.0.0.1:19530",
        "http://[::1]:19530",
        "./milvus.db",
        "/data/a@b:c/milvus.db",
        "milvus.db",
        "~/x@y.db",
    ],
)
def test_an_address_of_milvus(uri: str) -> None:
    assert MilvusSection(uri=uri).uri == uri


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("http://root:pw@milvus:19530", "holds credentials"),
        ("https://root:p/w@milvus", "holds credentials"),
        ("https://token@milvus", "holds credentials"),
        ("root:pw@milvus:19530", "holds credentials"),
        ("http://milvus:port", "neither http"),
        ("http://milvus:99999", "neither http"),
        ("http://[milvus", "neither http"),
        ("http://", "neither http"),
        ("ftp://milvus", "neither http"),
        ("unix:///run/milvus.sock", "neither http"),
    ],
)
def test_what_is_no_address_of_milvus(uri: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem) as caught:
        MilvusSection(uri=uri)
    assert "pw" not in str(caught.value)
    assert "p/w" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://r:port", "http://u:p/w@r", "http://r, http://[r", "http://"]
)
def test_what_is_no_address_of_a_registry(url: str) -> None:
    with pytest.raises(ValidationError, match=r"is no http\(s\)://host:port") as caught:
        SchemaRegistrySection(url=url)
    assert "p/w" not in str(caught.value)


def test_brokers_with_a_password() -> None:
    with pytest.raises(ValidationError, match="put them into username and password") as caught:
        KafkaSection(bootstrap_servers="u:pw@k:9092")
    assert "u:pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("proxy", "good"),
    [
        ("http://u:p@proxy:3128", True),
        ("proxy:3128", True),
        ("socks5://proxy", True),
        ("u:p@proxy:3128", True),
        ("http://u:p/w@proxy", False),
        ("proxy:port", False),
        ("http://", False),
    ],
)
def test_a_proxy(proxy: str, good: bool) -> None:
    assert is_proxy(proxy) is good


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_what_is_this_machine(host: str, here: bool) -> None:
    assert is_loopback(host) is here


@pytest.mark.parametrize(
    ("section", "warned"),
    [
        ({"uri": f"http://{FAR}:19530", "token": "t"}, True),
        ({"uri": f"tcp://{FAR}:19530", "token": "t"}, True),
        ({"uri": f"https://{FAR}:19530", "token": "t"}, False),
        ({"uri": f"http://{FAR}:19530"}, False),
        ({"uri": "http://127.0.0.1:19530", "token": "t"}, False),
        ({"uri": "./milvus.db", "token": "t"}, False),
    ],
)
def test_a_token_of_milvus_without_tls(section: dict[str, Any], warned: bool) -> None:
    found = unencrypted(contract(milvus=section), "milvus")
    assert bool(found) is warned
    assert all(FAR in each and "https://" in each for each in found)


PLAIN = {"sasl_mechanism": "PLAIN", "password": "p"}


@pytest.mark.parametrize(
    ("section", "warned"),
    [
        ({"security_protocol": "SASL_PLAINTEXT", **PLAIN}, True),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}, True),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-512"}, False),
        ({"security_protocol": "SASL_SSL", **PLAIN}, False),
        ({"security_protocol": "PLAINTEXT", **PLAIN}, False),
        (
            {
                "security_protocol": "SASL_PLAINTEXT",
                **PLAIN,
                "bootstrap_servers": "localhost,[::1]:1",
            },
            False,
        ),
        (
            {
                "security_protocol": "SASL_PLAINTEXT",
                **PLAIN,
                "bootstrap_servers": "localhost:9,k:9",
            },
            True,
        ),
        (
            {"security_protocol": "SASL_PLAINTEXT", **PLAIN, "bootstrap_servers": "PLAINTEXT://k"},
            True,
        ),
    ],
)
def test_a_password_of_kafka_without_tls(section: dict[str, Any], warned: bool) -> None:
    found = unencrypted(contract(kafka=section), "kafka")
    assert bool(found) is warned
    assert all("SASL_SSL" in each for each in found)


@pytest.mark.parametrize(
    ("section", "warned"),
    [
        ({"url": "http://r:8081", "username": "u", "password": "p"}, True),
        ({"url": "http://u:p@r:8081"}, True),
        ({"url": "http://127.0.0.1:8081,http://r", "username": "u", "password": "p"}, True),
        ({"url": "https://r:8081", "username": "u", "password": "p"}, False),
        ({"url": "http://r:8081"}, False),
        ({"url": "http://u:p@localhost:8081"}, False),
    ],
)
def test_a_password_of_the_registry_without_tls(section: dict[str, Any], warned: bool) -> None:
    found = unencrypted(contract(registry=section), "registry")
    assert bool(found) is warned
    assert all("u:p" not in each for each in found)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(" * 3000 + ")" * 3000, "nested too deep"),
        ("(?=" * 2000 + ")" * 2000, "nested too deep"),
        ("(?V1)" + "[" * 3000 + "a" + "]" * 3000, "nested too deep"),
        ("a" * (module.MAX_PATTERN + 1), "more than 10,000 characters"),
        ("a{1,99999999999999}", "no regular expression"),
        ("(", "no regular expression"),
    ],
    ids=["groups", "assertions", "sets", "long", "count", "open"],
)
def test_a_pattern_that_cannot_be_compiled(pattern: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem) as caught:
        Mask(kind="redact", patterns=("good", pattern))
    assert "pattern 2" in str(caught.value)
    assert len(str(caught.value)) < 400
