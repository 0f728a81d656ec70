"""Faults of Milvus, of Kafka and of the network: nothing is lost, and no row goes back in time."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import Consumer, TopicPartition

from flows.embedded.broker import DurableBroker
from flows.embedded.milvus_lite import MilvusLiteServer
from tests.chaos.proxy import Fault, Proxy, Way
from tests.chaos.scene import (
    Feed,
    PatientReader,
    catches_up,
    goes_on,
    start,
    stop_cleanly,
)
from tests.integration.running import (
    Process,
    collection,
    consume,
    docs_contract,
    produce,
    quiet,
    run_to_end,
    told,
)

pytestmark = pytest.mark.integration

SEED = int(os.environ.get("ROWVEC_TEST_SEED", "7"))

OUTAGE_S = 8.0
"""Longer than the lease."""

BRIEF_S = 3.0
"""Longer than a request may take."""

FAULTS = {
    "slow": Fault(delay_s=0.1),
    "refusing connections": Fault(refuse=True),
    "cut in the middle of requests": Fault(cut_after=5_000),
    "answers lost": Fault(replies=Way.LOSE),
    "half open, and what was sent comes late": Fault(requests=Way.HOLD, replies=Way.HOLD),
}


class Servers(NamedTuple):
    """The servers of all flows here, with the proxies in front of them."""

    broker: DurableBroker
    kafka: Proxy
    milvus: MilvusLiteServer
    network: Proxy
    model: Path


@pytest.fixture(scope="module")
def servers(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:
        broker = DurableBroker(directory / "broker")
        stack.callback(broker.stop)
        broker.start()
        milvus = MilvusLiteServer(directory / "milvus")
        stack.callback(milvus.stop)
        milvus.start()
        kafka = stack.enter_context(Proxy(port_of(broker.bootstrap_servers), advertised=True))
        network = stack.enter_context(Proxy(port_of(milvus.uri)))
        yield Servers(broker, kafka, milvus, network, tiny_model)


@pytest.fixture
def healed(servers: Servers) -> Iterator[Servers]:
    """The servers; all faults are ended after each test, also after a failed one."""
    try:
        yield servers
    finally:
        servers.kafka.heal()
        servers.network.heal()
        if servers.milvus._child.pid is None:
            servers.milvus.start()


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def write_down(servers: Servers, home: Path) -> None:
    docs_contract(
        home,
        servers.broker,
        f"http://127.0.0.1:{servers.network.port}",
        servers.model,
        kafka={
            "bootstrap_servers": f"127.0.0.1:{servers.kafka.port}",
            "source_batch_size": 100,
            "librdkafka": {
                "fetch.wait.max.ms": 10,
                "socket.timeout.ms": 2_000,
                "reconnect.backoff.max.ms": 500,
            },
        },
        flow={"window_ms": 10},
        recovery={"directory": str(home / "recovery"), "epoch_interval_s": 0.3, "partitions": 2},
    )


def last_for(flow: Process, seconds: float) -> None:
    """Wait `seconds`; the flow must not end meanwhile."""
    until = time.monotonic() + seconds
    flow.wait_until(lambda: time.monotonic() >= until)


def bears(flow: Process, reader: PatientReader, proxy: Proxy, what: str, fault: Fault) -> None:
    """Check that the flow writes on after a fault, and during a fault that only delays."""
    began = time.monotonic()
    proxy.become(fault)
    last_for(flow, BRIEF_S)
    if fault.delay_s:
        goes_on(flow, reader)
    proxy.heal()
    healed = time.monotonic()
    goes_on(flow, reader)
    print(f"{what}: {healed - began:.1f} s, then {time.monotonic() - healed:.1f} s to go on")


def test_a_bad_network_to_milvus_is_borne_without_a_restart(
    healed: Servers, tmp_path: Path
) -> None:
    servers, name = healed, tmp_path.name
    write_down(servers, tmp_path)
    feed = Feed(servers.broker, name, seed=SEED)
    with (
        feed,
        PatientReader(servers.milvus.uri, name, feed.history) as reader,
        start(tmp_path) as flow,
    ):
        goes_on(flow, reader)
        for what, fault in FAULTS.items():
            bears(flow, reader, servers.network, what, fault)
        catches_up(servers.milvus.uri, name, feed.stop())
        stop_cleanly(flow)
    assert reader.faults == []


def test_milvus_dies_for_longer_than_the_lease_and_again_while_the_flow_is_stopped(
    healed: Servers, tmp_path: Path
) -> None:
    servers, name = healed, tmp_path.name
    write_down(servers, tmp_path)
    feed = Feed(servers.broker, name, seed=SEED + 1)
    with feed, PatientReader(servers.milvus.uri, name, feed.history) as reader:
        with start(tmp_path) as flow:
            goes_on(flow, reader)
            servers.milvus.kill()
            last_for(flow, OUTAGE_S)
            servers.milvus.start()
            goes_on(flow, reader)

            servers.milvus.kill()
            last_for(flow, BRIEF_S)
            flow.send(signal.SIGTERM)
            assert flow.wait() == 1, flow.stderr
        quiet(flow)
        told(flow, "gave up after ", "start again: nothing is lost")
        servers.milvus.start()
        with start(tmp_path) as flow:
            goes_on(flow, reader)
            # The lock of the same recovery directory proves that the process before is dead.
            assert "Waiting up to" not in flow.stderr
            catches_up(servers.milvus.uri, name, feed.stop())
            stop_cleanly(flow)
    assert reader.faults == []


def test_a_bad_network_to_kafka_and_a_restart_of_the_broker_are_borne(
    healed: Servers, tmp_path: Path
) -> None:
    servers, name = healed, tmp_path.name
    write_down(servers, tmp_path)
    feed = Feed(servers.broker, name, seed=SEED + 2)
    with (
        feed,
        PatientReader(servers.milvus.uri, name, feed.history) as reader,
        start(tmp_path) as flow,
    ):
        goes_on(flow, reader)
        for what, fault in FAULTS.items():
            bears(flow, reader, servers.kafka, what, fault)
        with feed.pausing():  # This broker may lose records that it accepts while it stops.
            servers.broker.stop()
            last_for(flow, BRIEF_S)
            servers.broker.start()
        goes_on(flow, reader)
        catches_up(servers.milvus.uri, name, feed.stop())
        stop_cleanly(flow)
    assert reader.faults == []


def test_a_dead_letter_waits_for_kafka_and_survives_a_kill(healed: Servers, tmp_path: Path) -> None:
    servers, name = healed, tmp_path.name
    write_down(servers, tmp_path)
    feed = Feed(servers.broker, name, seed=SEED + 3)
    final, letters = feed.stop(), f"{name}.dead"
    direct = servers.broker.bootstrap_servers
    away = Fault(cut_on=letters.encode())
    with start(tmp_path) as flow:
        flow.wait_running()
        catches_up(servers.milvus.uri, name, final)
        for number in (1, 2):
            servers.kafka.become(away)
            produce(direct, name, [(0, b'{"id": %d}' % number, b"not JSON")])
            flow.wait_until(partial(has_tried, flow, number))
            last_for(flow, BRIEF_S)
            if number == 2:
                flow.kill()
            servers.kafka.heal()
            if number == 1:
                assert len(consume(direct, letters, 1)) == 1
    quiet(flow)
    assert at_end(direct, letters) == 1  # The second dead letter was never sent.
    run_to_end(tmp_path)
    found = consume(direct, letters, 2)
    assert [letter.value() for letter in found] == [b"not JSON"] * 2
    assert len({letter.key() for letter in found}) == 2
    assert collection(servers.milvus.uri, name) == final


def has_tried(flow: Process, letters: int) -> bool:
    """Whether the flow has tried to send this many dead letters."""
    return flow.stderr.count("Dead letter ") == letters


def at_end(servers: str, topic: str) -> int:
    """How many records are in partition 0."""
    with closing(Consumer({"bootstrap.servers": servers, "group.id": "test"})) as consumer:
        return int(consumer.get_watermark_offsets(TopicPartition(topic, 0), 20.0)[1])
