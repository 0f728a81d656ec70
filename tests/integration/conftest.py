"""What most integration tests share: a broker, Milvus Lite behind a server, and a model of no size."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.embedded.broker import Broker
from flows.embedded.milvus_lite import MilvusLiteServer
from tests.integration.running import prestarted
from tests.live.model import make_model


@pytest.fixture(scope="package", autouse=True)
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`rowvec` starts without its imports; what a test starts as a `Process` of its own does not."""
    with prestarted(tmp_path_factory.mktemp("zygote")):
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of no size."""
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
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Milvus Lite server."""
    server = MilvusLiteServer(tmp_path_factory.mktemp("milvus"))
    try:
        server.start()
        yield server.uri
    finally:
        server.stop()
