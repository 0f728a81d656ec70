"""A registry that is down, refuses, is no registry, or has an untrusted certificate: the errors."""

import gzip
import json
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from operators.codec.registry import client
from operators.codec.registry.decoder import RegistryDecoder
from operators.contract.sections import SchemaRegistrySection
from operators.errors import ContractError, FatalError
from operators.retry import RetryPolicy
from operators.telemetry import Telemetry
from tests.certificates import self_signed
from tests.registry import RegistryStub

TOPIC = "app.public.docs"
SECRET = "a value that nobody may see"
ROW = json.dumps({"type": "record", "name": "Row", "fields": [{"name": "id", "type": "long"}]})
ONE = b"\0\0\0\0\1\x02"

Decoder = Callable[..., RegistryDecoder]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def registry() -> Iterator[RegistryStub]:
    with RegistryStub() as stub:
        yield stub


@pytest.fixture
def filled(registry: RegistryStub) -> RegistryStub:
    registry.add(f"{TOPIC}-value", ROW)
    return registry


@pytest.fixture
def make() -> Iterator[Decoder]:
    made: list[RegistryDecoder] = []

    def decoder(url: str, for_s: float = 0.0, **section: Any) -> RegistryDecoder:
        retry = RetryPolicy(for_s, Telemetry(), max_wait_s=0.0)
        made.append(RegistryDecoder(SchemaRegistrySection(url=url, **section), retry))
        return made[-1]

    yield decoder
    for each in made:
        each.close()


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_stop_the_flow_at_once(
    filled: RegistryStub, make: Decoder, status: int
) -> None:
    filled.failures = [status] * 5
    with pytest.raises(FatalError, match="refuses the credentials") as caught:
        make(filled.url, for_s=60).decode(ONE, TOPIC, key=False)
    assert "[schema_registry]" in caught.value.hint
    assert len(filled.asked) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_registry_in_trouble_is_asked_again(
    filled: RegistryStub, make: Decoder, status: int
) -> None:
    filled.failures = [status, status]
    assert make(filled.url, for_s=60).decode(ONE, TOPIC, key=False) == ({"id": 1}, {})
    assert len(filled.asked) == 3


def test_a_reference_is_asked_for_again_too(registry: RegistryStub, make: Decoder) -> None:
    registry.add("Id", ROW.replace("Row", "Id"))
    reference = {"name": "Id", "subject": "Id", "version": 1}
    registry.add("Row", ROW.replace('"long"', '"Id"'), references=[reference])
    registry.failures = [503]
    decoder = make(registry.url, for_s=60)
    assert decoder.decode(b"\0\0\0\0\2\x02", TOPIC, key=False) == ({"id": {"id": 1}}, {})


def test_a_registry_that_stays_away_stops_the_flow_and_makes_no_bad_record(
    filled: RegistryStub, make: Decoder
) -> None:
    filled.failures = [500] * 3
    with pytest.raises(FatalError, match="nothing is lost") as caught:
        make(filled.url).decode(ONE, TOPIC, key=False)
    assert "HTTP 500" in caught.value.cause
    assert len(filled.asked) == 1, "nobody but the retry policy tries again"


def test_nobody_listens(make: Decoder) -> None:
    with RegistryStub() as stub:
        url = stub.url
    with pytest.raises(FatalError, match="cannot be reached") as caught:
        make(url).decode(ONE, TOPIC, key=False)
    assert "`url` in [schema_registry]" in caught.value.hint


def test_a_registry_that_does_not_answer_is_given_up_in_time(
    filled: RegistryStub, make: Decoder
) -> None:
    filled.silent = True
    with pytest.raises(FatalError, match=r"it does not answer within 0\.05 s"):
        make(filled.url, request_timeout_s=0.05).decode(ONE, TOPIC, key=False)


SLOWLY = b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n" + json.dumps({"schema": ROW}).encode()


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that answers its only request as it likes; its address."""

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("whole", [0, 20, SLOWLY.index(b"{")], ids=["first", "header", "body"])
def test_a_registry_that_answers_a_byte_at_a_time_is_given_up(make: Decoder, whole: int) -> None:
    given_up = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(SLOWLY[:whole])
        for byte in SLOWLY[whole:].ljust(whole + 600):
            connection.sendall(bytes([byte]))
            if given_up.wait(0.005):
                return

    with serving(answer) as url:
        decoder = make(url, request_timeout_s=0.1)
        with pytest.raises(FatalError, match=r"it does not answer within 0\.1 s"):
            decoder.decode(ONE, TOPIC, key=False)
        given_up.set()


@pytest.mark.parametrize("packed", [False, True], ids=["as it is", "compressed"])
@pytest.mark.parametrize("told", [False, True], ids=["no length", "length"])
def test_an_answer_that_would_fill_the_memory_is_given_up(
    make: Decoder, monkeypatch: pytest.MonkeyPatch, packed: bool, told: bool
) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 2**20)
    body = json.dumps({"schema": ROW, "more": " " * 2**20}).encode()
    body = gzip.compress(body) if packed else body
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
    head += b"Content-Encoding: gzip\r\n" if packed else b""
    head += b"Content-Length: %d\r\n" % len(body) if told else b""

    def answer(connection: socket.socket) -> None:
        with suppress(OSError):  # the client hangs up
            connection.sendall(head + b"\r\n" + body)

    with serving(answer) as url, pytest.raises(FatalError, match="longer than 1 MiB") as caught:
        make(url).decode(ONE, TOPIC, key=False)
    assert "Confluent's API" in caught.value.hint


def test_a_long_answer_is_taken(registry: RegistryStub, make: Decoder) -> None:
    named = {**json.loads(ROW), "doc": "x" * 2**20}
    registry.add(f"{TOPIC}-value", json.dumps(named))
    assert make(registry.url).decode(ONE, TOPIC, key=False) == ({"id": 1}, {})


@pytest.mark.parametrize(
    "answer",
    [
        (404, b"<html>nothing here</html>"),
        (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        (200, b"<html>log in</html>"),
        (200, b"[]"),
        (302, b""),
        (400, b"{}"),
    ],
)
def test_what_is_no_registry_stops_the_flow(
    filled: RegistryStub, make: Decoder, answer: tuple[int, bytes]
) -> None:
    filled.failures = [answer]
    with pytest.raises(FatalError) as caught:
        make(filled.url, for_s=60).decode(ONE, TOPIC, key=False)
    assert "Confluent's API" in caught.value.hint


def test_it_logs_in_and_never_shows_the_password(make: Decoder) -> None:
    with RegistryStub(login=("rowvec", SECRET)) as stub:
        stub.add(TOPIC, ROW)
        decoder = make(stub.url, username="rowvec", password=SECRET)
        assert decoder.decode(ONE, TOPIC, key=False) == ({"id": 1}, {})
        with pytest.raises(FatalError, match="HTTP 401"):
            make(stub.url, username="rowvec", password="wrong").decode(ONE, TOPIC, key=False)
        with pytest.raises(ContractError) as caught:
            make(
                stub.url.replace("//", f"//rowvec:{SECRET.replace(' ', '_')}@"),
                username="rowvec",
                password=SECRET,
            )
        assert "url in [schema_registry]" in str(caught.value)
        assert SECRET.replace(" ", "_") not in "".join(traceback.format_exception(caught.value))


def test_a_password_inside_the_address_is_not_shown(make: Decoder) -> None:
    with RegistryStub(login=("rowvec", "right")) as stub:
        url = stub.url.replace("//", "//rowvec:hidden@")
        with pytest.raises(FatalError, match="HTTP 401") as caught:
            make(url).decode(ONE, TOPIC, key=False)
    assert "hidden" not in str(caught.value)
    assert stub.url in str(caught.value)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and a self-signed certificate for 127.0.0.1."""
    return self_signed(tmp_path / "registry.pem")


def test_https_with_the_ca_file_and_not_without_it(make: Decoder, certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with RegistryStub(tls=tls) as stub:
        stub.add(TOPIC, ROW)
        decoder = make(stub.url, ca_file=certificate)
        assert decoder.decode(ONE, TOPIC, key=False) == ({"id": 1}, {})
        with pytest.raises(FatalError, match="not trusted") as caught:
            make(stub.url, for_s=60).decode(ONE, TOPIC, key=False)
        assert "ca_file in [schema_registry]" in caught.value.hint


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_is_none_is_told_before_anything_is_read(
    make: Decoder, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ContractError, match="ca_file in"):
        make("https://127.0.0.1:1", ca_file=path)


def test_if_the_second_client_fails_the_first_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Client:
        _rest_client = SimpleNamespace(session=SimpleNamespace())

        def __init__(self, _options: Any) -> None:
            if opened:
                raise OSError("no such file")

        def __enter__(self) -> None:
            opened.append("open")

        def __exit__(self, *_: object) -> None:
            opened.append("closed")

    monkeypatch.setattr(client, "SchemaRegistryClient", Client)
    with pytest.raises(ContractError, match="ca_file"):
        client.RegistryClient(SchemaRegistrySection(url="http://127.0.0.1:1"))
    assert opened == ["open", "closed"]
