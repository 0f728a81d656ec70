"""Kafka over TLS: with the right files everything works, and with wrong ones the message says which.

The embedded broker speaks no TLS, so a proxy in front of it does; the broker names the proxy's port.
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.embedded.broker import Broker
from flows.embedded.process import Child, free_ports
from operators.changes.events import DeadLetter, KafkaPosition
from operators.contract.sections import KafkaSection
from operators.errors import FatalError
from operators.kafka import topics
from operators.kafka.config import check_clients
from operators.kafka.dead_letters import DeadLetterProducer
from operators.kafka.log_reader import BEGINNING
from operators.kafka.reader import KafkaReader
from tests.certificates import self_signed
from tests.integration.running import PATIENCE_S

pytestmark = pytest.mark.integration


class ProxiedBroker(Broker):
    """The embedded broker; clients are told to reach it at another port."""

    def __init__(self, directory: Path, proxy: int) -> None:
        self._proxy = proxy
        super().__init__(directory)

    def _make_child(self, directory: Path, port: int) -> Child:
        child = super()._make_child(directory, port)
        place = child._argv.index("--advertised-listener-url") + 1
        child._argv[place] = f"tcp://127.0.0.1:{self._proxy}"
        return child

    def _ask_metadata(self) -> None:
        """Nothing: a client would be sent to the proxy."""


class Proxy:
    """Takes TLS connections at a port, and passes on what they hold."""

    def __init__(self, port: int, target: int, certificate: Path, clients: Path | None) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)
        if clients is not None:
            self._tls.verify_mode = ssl.CERT_REQUIRED
            self._tls.load_verify_locations(clients)
        self._port, self._target = port, target
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # a client that hangs up
        self._loop.run_until_complete(self._listen())
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, ssl=self._tls
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except (OSError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


@pytest.fixture(scope="module", params=["server", "mutual"])
def tls(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Address of a broker behind TLS, and the keys of `[kafka]` that it takes to get in."""
    directory = tmp_path_factory.mktemp("tls")
    port = free_ports(1)[0]
    certificate = self_signed(directory / "broker.pem")
    client = self_signed(directory / "client.pem")
    mutual = request.param == "mutual"
    broker = ProxiedBroker(directory / "broker", port)
    proxy = Proxy(port, broker._port, certificate, client if mutual else None)
    try:
        broker.start()
        keys: dict[str, Any] = {"security_protocol": "SSL", "ca_file": certificate}
        if mutual:
            keys |= {"certificate_file": client, "key_file": client}
        yield f"127.0.0.1:{port}", keys
    finally:
        broker.stop()
        proxy.close()


def test_everything_works_over_tls(
    tls: tuple[str, dict[str, Any]],
) -> None:
    address, keys = tls
    section = KafkaSection(
        bootstrap_servers=address,
        **keys,
        librdkafka={"fetch.wait.max.ms": 10},
        dead_letter_topic="tls.dead",
    )
    check_clients(section)
    topics.ensure_dead_letter_topic(section)
    assert topics.topic_partitions(section, ["tls.dead"]) == [("tls.dead", 0)]
    letter = DeadLetter(KafkaPosition("docs", 0, 7), "decode", "docs:1", "no JSON", "", b"k", b"v")
    DeadLetterProducer(section).send([letter])
    reader = KafkaReader(section, "tls.dead", 0, BEGINNING, traced=False, needles=None)
    deadline, records = time.monotonic() + PATIENCE_S, []
    while not records and time.monotonic() < deadline:
        records = list(reader.read(10)[0])
    reader.close()
    assert [record[2] for record in records] == [b"v"]


def test_a_certificate_of_another_authority_is_told(
    tls: tuple[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "REQUEST_TIMEOUT_S", 2.0)  # such a client tries for all of it
    address, keys = tls
    other = {**keys, "ca_file": self_signed(tmp_path / "other.pem")}
    section = KafkaSection(bootstrap_servers=address, **other)
    check_clients(section)  # the file is a certificate, only not this broker's
    with pytest.raises(FatalError) as error:
        topics.topic_partitions(section, ["docs"])
    assert error.value.subject == f"Kafka at {address}"
    assert "certificate verify failed" in error.value.cause
