"""Milvus Lite, served inside this process on a loopback port.

It has one worker thread, so that its requests never overlap: with more, Milvus Lite loses
acknowledged rows of concurrent writers when the process is killed. The table of running servers is
shared by all threads of the process, under one lock.
"""

import atexit
import threading
from collections.abc import Callable
from dataclasses import dataclass

from operators.errors import FatalError


@dataclass(slots=True)
class _Server:
    uri: str
    stop: Callable[[], None]
    users: int = 1


_lock = threading.Lock()

_running: dict[str, _Server] = {}


def open_directory(path: str) -> str:
    """Serve a directory on loopback, or reuse the server that this process runs for it; the URI.

    pymilvus could do so itself, but with ten worker threads, and it hides the reason of a failure.
    """
    try:
        from milvus_lite.adapter.grpc.server import start_server_in_thread
        from milvus_lite.exceptions import DataDirLockedError, MilvusLiteError
    except ImportError:
        raise FatalError(
            subject="milvus.uri",
            cause=f"'{path}' is a path, and Milvus Lite is not installed",
            hint="Install milvus-lite, or give the address of a server",
        ) from None
    with _lock:
        if (running := _running.get(path)) is not None:
            running.users += 1
            return running.uri
        try:
            server, database, port = start_server_in_thread(path, "127.0.0.1", 0, max_workers=1)
        except DataDirLockedError:
            raise FatalError(
                subject=f"Milvus Lite directory '{path}'",
                cause="is in use by another process",
                hint="End that process, or let both talk to one server: milvus-lite server "
                f"--data-dir {path} --host 127.0.0.1 --max-workers 1",
            ) from None
        except (OSError, MilvusLiteError) as error:
            raise FatalError(
                subject=f"Milvus Lite directory '{path}'",
                cause=f"cannot be opened: {error}",
                hint="Give a directory that can be written to, or that does not exist yet",
            ) from error

        def stop() -> None:
            server.stop(grace=2).wait()
            database.close()

        if not _running:
            atexit.register(_close_all)
        _running[path] = _Server(f"http://127.0.0.1:{port}", stop)
        return _running[path].uri


def close_directory(path: str) -> None:
    """Stop using a directory; the last user stops its server and frees it for other processes."""
    with _lock:
        running = _running.get(path)
        if running is None:
            return
        running.users -= 1
        if running.users <= 0:
            del _running[path]
            running.stop()


def _close_all() -> None:
    with _lock:
        for running in _running.values():
            running.stop()
        _running.clear()
