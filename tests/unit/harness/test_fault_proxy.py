"""The proxy of the chaos tests applies each fault, and only while the fault is set."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.chaos.proxy import Fault, Proxy, Way

PATIENCE_S = 20.0
MOMENT_S = 0.2
"""How long to wait for data that must not come; without the fault it would come much sooner."""


class Echo:
    """A server that sends back what it receives, and keeps it in `got`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.got = b""
        self._more = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def wait_for(self, data: bytes, seconds: float = PATIENCE_S) -> bool:
        with self._more:
            return self._more.wait_for(lambda: self.got == data, seconds)

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client):
            try:
                while data := client.recv(65536):
                    with self._more:
                        self.got += data
                        self._more.notify_all()
                    client.sendall(data)
            except OSError:
                pass


@pytest.fixture
def echo() -> Iterator[Echo]:
    with closing(Echo()) as server:
        yield server


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as between:
        yield between


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with closing(connect(proxy)) as connection:
        assert ask(connection, b"hello ") == b"hello "
        yield connection


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S)


def ask(client: socket.socket, question: bytes) -> bytes:
    client.sendall(question)
    return receive(client, len(question))


def receive(client: socket.socket, count: int) -> bytes:
    answer = b""
    while len(answer) < count and (data := client.recv(65536)):
        answer += data
    return answer


def knock(proxy: Proxy) -> None:
    with closing(connect(proxy)) as client:
        client.recv(1)


def silent(client: socket.socket) -> bool:
    client.settimeout(MOMENT_S)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(PATIENCE_S)
    return False


def test_without_a_fault_everything_passes_and_an_end_is_passed_on(
    proxy: Proxy, client: socket.socket
) -> None:
    much = bytes(range(256)) * 4_000
    sender = threading.Thread(target=client.sendall, args=(much,))
    sender.start()
    assert receive(client, len(much)) == much
    sender.join()
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert proxy.accepted == 1


def test_a_delay_is_one_in_each_direction(proxy: Proxy, client: socket.socket) -> None:
    proxy.become(Fault(delay_s=0.1))
    began = time.monotonic()
    assert ask(client, b"slow") == b"slow"
    assert time.monotonic() - began >= 0.2


def test_held_requests_arrive_late_on_the_connection_that_has_stayed(
    echo: Echo, proxy: Proxy, client: socket.socket
) -> None:
    proxy.become(Fault(requests=Way.HOLD))
    client.sendall(b"late")
    assert not echo.wait_for(b"hello late", MOMENT_S)
    assert silent(client)
    proxy.heal()
    assert receive(client, 4) == b"late"
    assert echo.got == b"hello late"


def test_held_replies_do_not_keep_the_request(
    echo: Echo, proxy: Proxy, client: socket.socket
) -> None:
    proxy.become(Fault(replies=Way.HOLD))
    client.sendall(b"done")
    assert echo.wait_for(b"hello done")
    assert silent(client)
    proxy.heal()
    assert receive(client, 4) == b"done"


def test_lost_replies_never_arrive_and_the_connection_is_cut_in_the_end(
    echo: Echo, proxy: Proxy, client: socket.socket
) -> None:
    proxy.become(Fault(replies=Way.LOSE))
    client.sendall(b"done")
    assert echo.wait_for(b"hello done")
    assert silent(client)
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with closing(connect(proxy)) as another:
        assert ask(another, b"again") == b"again"


def test_a_cut_in_the_middle_of_a_request_lets_its_beginning_through(
    echo: Echo, proxy: Proxy, client: socket.socket
) -> None:
    proxy.become(Fault(cut_after=3))
    client.sendall(b"request")
    assert echo.wait_for(b"hello req")
    with pytest.raises(ConnectionResetError):
        receive(client, 7)
    with closing(connect(proxy)) as another, pytest.raises(ConnectionResetError):
        ask(another, b"request")
    proxy.heal()
    with closing(connect(proxy)) as another:
        assert ask(another, b"request") == b"request"


def test_a_cut_on_what_a_request_has_in_it_lets_nothing_of_it_through(
    echo: Echo, proxy: Proxy, client: socket.socket
) -> None:
    proxy.become(Fault(cut_on=b"letter"))
    assert ask(client, b"record") == b"record"
    client.sendall(b"a letter")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.got == b"hello record"


def test_a_refusal_ends_what_there_is_and_keeps_the_port(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.become(Fault(refuse=True))
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    with closing(connect(proxy)) as another:
        assert ask(another, b"again") == b"again"


def test_a_cut_ends_all_connections_at_once_and_takes_new_ones(proxy: Proxy) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(connect(proxy))) for _ in range(3)]
        for each in clients:
            assert ask(each, b"hello") == b"hello"
        assert proxy.open == 3
        proxy.cut()
        assert proxy.open == 0
        for each in clients:
            with pytest.raises(ConnectionResetError):
                each.recv(1)
    with closing(connect(proxy)) as another:
        assert ask(another, b"again") == b"again"


def test_a_server_that_is_away_is_a_reset_and_may_come_back() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as first:
        port = int(first.getsockname()[1])
    with Proxy(port) as proxy:
        with pytest.raises(ConnectionResetError):
            knock(proxy)
        with closing(socket.create_server(("127.0.0.1", port))) as back, closing(connect(proxy)):
            served, _ = back.accept()
            served.close()


def test_a_broker_s_address_becomes_the_proxy_s_in_its_answers_alone(echo: Echo) -> None:
    told = b"\x00\x09127.0.0.1" + echo.port.to_bytes(4, "big") + b"rest"
    with Proxy(echo.port, advertised=True) as proxy, closing(connect(proxy)) as client:
        assert ask(client, told) == b"\x00\x09127.0.0.1" + proxy.port.to_bytes(4, "big") + b"rest"
        assert echo.wait_for(told)
