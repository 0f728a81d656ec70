"""A TCP proxy that injects network faults when a test asks for them."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self, TypeVar

from flows.embedded.process import free_ports

T = TypeVar("T")

_CHUNK = 1 << 16
_ANSWER_S = 10.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with timeout 0: closing sends an RST and discards unsent data."""


class Way(Enum):
    """What happens to the bytes sent in one direction.

    `HOLD` is a cut network: the bytes wait, and arrive when the fault is over. `LOSE` drops them: the
    connection is useless afterwards, so it is closed when the fault ends.
    """

    PASS = auto()
    HOLD = auto()
    LOSE = auto()


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that applies to every connection, existing and new.

    Attributes:
        delay_s: Delay of each piece of data, in each direction.
        requests: What happens to bytes from the client.
        replies: What happens to bytes to the client.
        cut_after: A connection is cut after this many bytes of requests, counted from the start of the
            fault or of the connection; both ends get an RST.
        cut_on: A connection is cut in the same way before a request with these bytes in it passes.
        refuse: New connections are refused, and existing ones get an RST.
    """

    delay_s: float = 0.0
    requests: Way = Way.PASS
    replies: Way = Way.PASS
    cut_after: int | None = None
    cut_on: bytes | None = None
    refuse: bool = False


NONE = Fault()


@dataclass(eq=False, slots=True)
class _Connection:
    """The two sockets of a connection, and the tasks that copy between them.

    Attributes:
        left: Bytes of requests until the connection is cut.
        torn: Some bytes were dropped.
    """

    client: socket.socket
    server: socket.socket
    left: int | None
    torn: bool = False
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)


class Proxy:
    """Stands between clients and a server on 127.0.0.1; use it in a `with`.

    Args:
        target: Port of the server, which may stop and start again.
        advertised: The server is a Kafka broker: its metadata answers, which name the broker's address,
            are rewritten to name the proxy. Each such answer must arrive in one piece, as small ones do.

    Attributes:
        port: Port on which it listens; the same through all faults.
        accepted: How many connections were accepted so far.
    """

    def __init__(self, target: int, *, advertised: bool = False) -> None:
        self.port = free_ports(1)[0]
        self.accepted = 0
        self._target = target
        self._rename = _address(target), _address(self.port)
        self._advertised = advertised
        self._fault = NONE
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None

    def become(self, fault: Fault) -> None:
        """Replace the current fault by this one; it is in force when this returns."""
        self._do(self._become(fault))

    def heal(self) -> None:
        """End the fault."""
        self.become(NONE)

    def cut(self) -> None:
        """Send an RST to both ends of every connection."""
        self._do(self._cut())

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.heal()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # Everything below runs in the thread of the event loop.

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(_ANSWER_S)

    async def _become(self, fault: Fault) -> None:
        self._fault = fault
        for connection in list(self._connections):
            connection.left = fault.cut_after
            if connection.torn or fault.refuse:
                await self._end(connection, reset=True)
        if fault.refuse:
            self._close_listener()
        elif self._listener is None:
            self._listen()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _cut(self) -> None:
        for connection in list(self._connections):
            await self._end(connection, reset=True)

    async def _close(self) -> None:
        self._close_listener()
        await self._cut()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept, self._listener)

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # The client may have disconnected already.
            client, _ = listener.accept()
            self.accepted += 1
            connection = _Connection(client, socket.socket(), self._fault.cut_after)
            self._connections.add(connection)
            connection.tasks.append(self._loop.create_task(self._connect(connection)))

    async def _connect(self, connection: _Connection) -> None:
        for end in (connection.client, connection.server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(connection.server, ("127.0.0.1", self._target))
        except OSError:  # The server is down.
            await self._end(connection, reset=True)
            return
        connection.tasks = [
            self._loop.create_task(self._pump(connection, requests=True)),
            self._loop.create_task(self._pump(connection, requests=False)),
        ]

    async def _pump(self, connection: _Connection, *, requests: bool) -> None:
        source, sink = connection.client, connection.server
        if not requests:
            source, sink = sink, source
        try:
            while data := await self._loop.sock_recv(source, _CHUNK):
                await asyncio.sleep(self._fault.delay_s)
                way = await self._way(requests=requests)
                if way is Way.LOSE:
                    connection.torn = True
                    continue
                if requests and self._fault.cut_on is not None and self._fault.cut_on in data:
                    break
                if not requests and self._advertised:
                    data = data.replace(*self._rename)
                if requests and connection.left is not None:
                    data = data[: connection.left]
                    connection.left -= len(data)
                await self._loop.sock_sendall(sink, data)
                if requests and connection.left == 0:
                    break
            else:
                await self._way(requests=requests)  # `HOLD` also holds back the end of the stream.
                sink.shutdown(socket.SHUT_WR)
                if all(task.done() for task in connection.tasks if not _is_current(task)):
                    await self._end(connection, reset=False)
                return  # The other direction may still be copying.
        except OSError:
            pass  # One of the ends has reset the connection.
        await self._end(connection, reset=True)

    async def _way(self, *, requests: bool) -> Way:
        while True:
            way = self._fault.requests if requests else self._fault.replies
            if way is not Way.HOLD:
                return way
            await self._changed.wait()

    async def _end(self, connection: _Connection, *, reset: bool) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            others = [task for task in connection.tasks if not _is_current(task)]
            for task in others:
                task.cancel()
            if others:
                await asyncio.wait(others)
            for end in (connection.client, connection.server):
                _close_socket(end, reset=reset)


def _is_current(task: "asyncio.Task[None]") -> bool:
    return task is asyncio.current_task()


def _close_socket(end: socket.socket, *, reset: bool) -> None:
    with suppress(OSError):
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.close()


def _address(port: int) -> bytes:
    """The address as Kafka's protocol encodes it: the host, then the port in four bytes."""
    return b"127.0.0.1" + struct.pack(">i", port)
