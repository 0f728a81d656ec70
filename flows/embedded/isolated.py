"""Makes a program that listens on all addresses reachable on loopback only.

Run as `python -m flows.embedded.isolated SPEC.json`. The program runs in a network namespace of its
own that has only a loopback interface. Before entering it, this process opens listening sockets on
127.0.0.1 of the outer namespace, and relays their connections to the program's ports. Needs user
namespaces, but not root.

The specification's keys: `argv`, `env`, `relay` (a list of [outer port, inner port]) and `private`
(folders with fixed paths that the program uses, mapped to the folders that replace them).
"""

import asyncio
import contextlib
import ctypes
import fcntl
import functools
import json
import os
import signal
import socket
import struct
import sys
from asyncio import StreamReader, StreamWriter
from pathlib import Path

from flows.embedded.launcher import die_with_parent, enter_user_namespace

_CLONE_NEWNET, _CLONE_NEWNS = 0x40000000, 0x00020000

_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000

_SIOCSIFFLAGS = 0x8914

_IFF_UP = 1

_CHUNK_BYTES = 256 * 1024


def main(specification: Path) -> int:
    """Runs the program until it ends or SIGTERM arrives; returns its exit code."""
    spec = json.loads(specification.read_text(encoding="utf-8"))
    parent = os.getppid()
    relays = [
        (socket.create_server(("127.0.0.1", outer), backlog=128), inner)
        for outer, inner in spec["relay"]
    ]
    try:
        enter_user_namespace(os.getuid(), also=_CLONE_NEWNET | _CLONE_NEWNS)
        with socket.socket() as control:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        _mount("none", "/", _MS_REC | _MS_PRIVATE)
        for covered, private in spec["private"].items():
            os.makedirs(private, exist_ok=True)
            os.makedirs(covered, exist_ok=True)
            _mount(private, covered, _MS_BIND)
    except OSError as error:
        # Fail rather than run it without isolation: its ports would be open to the network.
        print(f"cannot isolate the program: {error}", file=sys.stderr)
        return 1
    die_with_parent(parent)  # again: entering a namespace may have cleared it
    return asyncio.run(_run(spec["argv"], spec["env"], relays))


def _mount(source: str, target: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), f"cannot mount {source} at {target}")


async def _run(
    argv: list[str], env: dict[str, str], relays: list[tuple[socket.socket, int]]
) -> int:
    # Through the launcher, so that the program is killed when this process ends.
    launcher = str(Path(__file__).with_name("launcher.py"))
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", launcher, str(os.getpid()), "keep", *argv), env=env
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, program.terminate)
    servers = [
        await asyncio.start_server(functools.partial(_relay, port), sock=outer)
        for outer, port in relays
    ]
    code = await program.wait()
    for server in servers:
        server.close()
    return code if code >= 0 else 128 - code


async def _relay(port: int, reader: StreamReader, writer: StreamWriter) -> None:
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:  # the program is not listening: refuse the client's connection too
        writer.transport.abort()
        return
    await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
