"""TLS in front of a Milvus: what works, and what is told if it cannot."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509

from operators.contract.sections import MilvusSection
from operators.errors import FatalError, RetriableError
from operators.milvus.store import MilvusStore
from tests.certificates import self_signed
from tests.conformance.conftest import lite_server


@contextmanager
def tls_in_front(port: int, cert: Path) -> Iterator[int]:
    """A port on loopback that speaks TLS with this certificate, and relays to another port."""
    loop = asyncio.new_event_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)
    context.set_alpn_protocols(["h2"])

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, inner[1]), copy(inner[0], writer))

    server = loop.run_until_complete(asyncio.start_server(relay, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:

        async def end() -> None:
            server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def section(port: int, scheme: str = "https", **more: object) -> MilvusSection:
    return MilvusSection.model_validate(
        {"uri": f"{scheme}://127.0.0.1:{port}", "request_timeout_s": 5, **more}
    )


@pytest.mark.timeout(120)
def test_tls(tmp_path: Path):
    right = self_signed(tmp_path / "right.pem")
    other = self_signed(tmp_path / "other.pem", x509.DNSName("milvus.example"))
    with lite_server(tmp_path / "data") as uri:
        plain = urlsplit(uri).port
        assert plain is not None
        with tls_in_front(plain, right) as port:
            with closing(MilvusStore(section(port, ca_file=right))) as store:
                assert store.ledger().read() == {}
            for wrong in ({}, {"ca_file": other}):
                with pytest.raises(FatalError, match="CERTIFICATE_VERIFY_FAILED") as refused:
                    MilvusStore(section(port, **wrong))
                assert "milvus.ca_file" in refused.value.hint
            with pytest.raises(RetriableError):
                MilvusStore(section(port, "http"))
        with tls_in_front(plain, other) as port:
            with pytest.raises(FatalError, match="Hostname") as refused:
                MilvusStore(section(port, ca_file=other))
            assert "as its certificate names it" in refused.value.hint
        with pytest.raises(FatalError) as refused:
            MilvusStore(section(plain, ca_file=right))
        assert "write http://" in refused.value.hint
