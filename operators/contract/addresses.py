"""Addresses in the contract: what is one, and which secrets would cross a network without TLS.

No message shows an address that holds credentials.
"""

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, urlsplit

from operators.printable import without_credentials

if TYPE_CHECKING:
    from operators.contract.sections import Contract, KafkaSection


def milvus_uri(text: str) -> str:
    """`milvus.uri`, if it can be one: the address of a server without credentials, or a path.

    Raises:
        ValueError: It is neither; says why.
    """
    if "://" not in text:
        if not text.startswith(("/", ".", "~")) and ":" in text.partition("@")[0] and "@" in text:
            raise ValueError(
                "holds credentials; write http(s)://host:port, and put them into token"
            )
        return text
    if "@" in text:  # guard: credentials-in-uri
        raise ValueError("holds credentials, which messages would show; put them into token")
    parts = _split(text)
    if parts is None or parts.scheme not in {"http", "https", "tcp"}:
        raise ValueError(
            f"'{text}' is neither http(s)://host:port nor a path; for Milvus Lite give the path of a "
            "directory"
        )
    return text


def brokers(text: str) -> str:
    """`bootstrap_servers`, if it holds no credentials; the client would not use them.

    Raises:
        ValueError: It does.
    """
    if "@" in text:
        raise ValueError("holds credentials; put them into username and password")
    return text


def registry_urls(text: str) -> str:
    """`url` of the registry, or several with commas between them; each may hold user and password.

    Raises:
        ValueError: One of them is no URL.
    """
    if any(_split(each.strip()) is None for each in text.split(",")):
        raise ValueError(
            "is no http(s)://host:port; write user and password into username and password, or "
            "percent-encode what is no letter or digit in them"
        )
    return text


def is_proxy(text: str) -> bool:
    """Whether it is the address of a proxy, with or without a scheme."""
    return _split(text if "://" in text else f"http://{text}") is not None


def is_loopback(host: str) -> bool:
    """Whether a host, as an address names it, is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def unencrypted(contract: "Contract", system: Literal["milvus", "kafka", "registry"]) -> list[str]:
    """A warning if a secret would go to this system over a network without TLS."""
    return [text for name, text in _unencrypted(contract) if name == system]


def _unencrypted(contract: "Contract") -> Iterator[tuple[str, str]]:
    milvus = _split(contract.milvus.uri) if "://" in contract.milvus.uri else None
    if contract.milvus.token and milvus and milvus.scheme != "https" and _is_far(milvus):
        yield (
            "milvus",
            f"milvus.token goes to {contract.milvus.uri} without TLS, so that anyone on the way can "
            "read it. Write https:// in milvus.uri, and switch on TLS in Milvus",
        )
    if _tells_password(contract.kafka):
        yield (
            "kafka",
            f"the password of [kafka] goes to {contract.kafka.bootstrap_servers} without TLS, so that "
            "anyone on the way can read it. Set security_protocol to SASL_SSL, or sasl_mechanism to "
            "SCRAM-SHA-512, which does not send it",
        )
    section = contract.schema_registry
    if section is not None:
        urls = [_split(each.strip()) for each in section.url.split(",")]
        if any(
            each.scheme == "http" and _is_far(each) and (section.password or each.password)
            for each in urls
            if each is not None
        ):
            yield (
                "registry",
                f"the password of [schema_registry] goes to {without_credentials(section.url)} without "
                "TLS, so that anyone on the way can read it. Write https:// in its url",
            )


def _tells_password(kafka: "KafkaSection") -> bool:
    """Whether the client sends a password or a token to a broker on another machine without TLS."""
    options = kafka.librdkafka
    protocol = str(options.get("security.protocol", kafka.security_protocol)).upper()
    mechanism = str(
        options.get("sasl.mechanism", options.get("sasl.mechanisms", kafka.sasl_mechanism))
    ).upper()
    hosts = [each.rpartition("://")[2].rpartition(":")[0] for each in _brokers(kafka)]
    return (
        protocol == "SASL_PLAINTEXT"
        and mechanism in {"PLAIN", "OAUTHBEARER"}
        and not all(map(is_loopback, hosts))
    )


def _brokers(kafka: "KafkaSection") -> list[str]:
    """The brokers, each with a port."""
    named = [each.strip() for each in kafka.bootstrap_servers.split(",")]
    return [each if each.rpartition(":")[2].isdecimal() else f"{each}:9092" for each in named]


def _is_far(parts: SplitResult) -> bool:
    return not is_loopback(parts.hostname or "")


def _split(url: str) -> SplitResult | None:
    """The parts of a URL with a host and, if there is one, a port; None if it is no such URL."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:  # its message may quote the password
        return None
