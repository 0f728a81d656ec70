"""The stores under test: one in memory, Milvus Lite by path and as a server, and a real Milvus."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import pytest

from operators.contract.sections import MilvusSection
from operators.milvus.store import MilvusStore
from tests.fakes import MemoryStore


@dataclass
class Backend:
    """A store of one kind, and how to open a second one on the same data (not in memory)."""

    kind: str
    store: Any
    section: MilvusSection | None


KINDS_OF_MILVUS = ("lite", "lite-server", pytest.param("server", marks=pytest.mark.server))

REAL_MILVUS = pytest.mark.parametrize("backend", KINDS_OF_MILVUS, indirect=True, scope="module")
"""For what the store in memory does not have: connections, for example."""


@pytest.fixture(
    scope="module",
    params=["memory", *KINDS_OF_MILVUS],
)
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    kind: str = request.param
    with ExitStack() as stack:
        if kind == "memory":
            yield Backend(kind, MemoryStore(), None)
            return
        directory = tmp_path_factory.mktemp(kind)
        match kind:
            case "lite":
                uri = str(directory / "milvus.db")
            case "lite-server":
                uri = stack.enter_context(lite_server(directory))
            case _:
                from flows.embedded.milvus_server import MilvusServer

                server = MilvusServer(directory)
                server.start()
                stack.callback(server.stop)
                uri = server.uri
        section = MilvusSection(uri=uri)
        store = stack.enter_context(closing(MilvusStore(section)))
        yield Backend(kind, store, section)


@contextmanager
def lite_server(directory: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-u", "-m", "milvus_lite", "server", "--data-dir", str(directory)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--max-workers", "1"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "listening" in process.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
