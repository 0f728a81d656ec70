"""Fixtures of most integration tests: a broker, a Milvus Lite server, and a tiny model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.embedded.broker import Broker, DurableBroker
from flows.embedded.milvus_lite import MilvusLiteServer
from tests.integration.running import prestarted
from tests.live.model import make_model


@pytest.fixture(scope="package", autouse=True)
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start `rowvec` by a fork of the zygote, which has done the imports.

    A test that makes its own `Process` still starts a new program.
    """
    with prestarted(tmp_path_factory.mktemp("zygote")):
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny model."""
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DurableBroker]:
    """A broker that can add partitions, and delete topics and records."""
    broker = DurableBroker(tmp_path_factory.mktemp("durable"))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Milvus Lite server."""
    server = MilvusLiteServer(tmp_path_factory.mktemp("milvus"))
    try:
        server.start()
        yield server.uri
    finally:
        server.stop()
