"""Child processes that never outlive their parent and are ended in a chosen order.

- Each child leads a session of its own, so that Ctrl-C in a terminal reaches only the parent, which
  then ends the children in the right order.
- The kernel kills a child when its parent ends, even by kill -9.
- A KeyboardInterrupt at any moment leaves no child that the parent does not know of.
"""

import functools
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from operators.errors import FatalError

Identity = Literal["keep", "nobody", "namespace"]

_LAUNCHER = Path(__file__).with_name("launcher.py")

_TAIL_LINES = 20

_POLL_SECONDS = 0.02

_KILL_SECONDS = 10.0

# Below the range that Linux uses for outgoing connections. Inside that range, a client that retries a
# stopped server on loopback can get connected to itself, and then occupies the server's port.
_PORTS = range(20_000, 32_000)


class Child:
    """One child process with a log; can be started again after it ended.

    One thread owns it. The spawner thread (`_requests`) starts the process; `_Spawn` guards what the
    two share.

    Args:
        name: Its name in errors; also names its log, `directory/<name>.log`.
        argv: The program, as an absolute path, and its arguments.
        directory: Existing directory; the child's working directory and its HOME.
        identity: The user it runs as, see `flows.embedded.launcher`.
        env: Its environment besides PATH, HOME and the locale. It inherits nothing else, because the
            embedded programs read options from variables such as JAVA_TOOL_OPTIONS or PGPORT.
        stop_signal: The signal that asks it to end; None for a program that soon ends by itself.
        stop_seconds: How long it may take to end before it is killed.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        directory: Path,
        identity: Identity = "keep",
        env: Mapping[str, str] | None = None,
        stop_signal: signal.Signals | None = signal.SIGTERM,
        stop_seconds: float = 10.0,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._argv = [str(part) for part in argv]
        self._directory = directory
        self._identity = identity
        self._env = {
            "PATH": os.defpath,
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            **(env or {}),
        }
        self._stop_signal = stop_signal
        self._stop_seconds = stop_seconds
        self._spawn: _Spawn | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        popen = self._spawn.popen if self._spawn else None
        return popen.pid if popen and popen.poll() is None else None

    def start(self) -> None:
        """Starts the process and returns at once; nothing is left running if this raises.

        Raises:
            FatalError: It is running already, or this is not Linux.
        """
        if sys.platform != "linux":
            raise FatalError(subject=self.name, cause="the embedded stack runs on Linux only")
        if self.pid is not None:
            raise FatalError(subject=self.name, cause=f"it runs already, as process {self.pid}")
        launch = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), self._identity]
        spawn = _Spawn([*launch, *self._argv], self._directory, self._env, self.log)
        self._spawn = spawn  # set before the process exists, so that an interrupt cannot lose it
        try:
            _requests().put(spawn)
            if (error := spawn.reply.get()) is not None:
                raise error
        except BaseException:
            self.kill()
            raise

    def wait(self, seconds: float) -> None:
        """Waits until the process ends with exit code 0.

        Raises:
            FatalError: It failed, or did not end within `seconds`; then it is killed.
        """
        popen = self._popen()
        try:
            code = popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self.failure(f"it did not end within {seconds:g} s") from None
        finally:
            self.stop()
        if code != 0:
            raise self.failure(_ended(code))

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Waits until `ready` returns True. The process is not stopped, even on an error.

        Raises:
            FatalError: The process ended, or `seconds` have passed.
        """
        popen = self._popen()
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise self.failure(f"it was not ready within {seconds:g} s")
            with suppress(subprocess.TimeoutExpired):
                popen.wait(_POLL_SECONDS)

    def check(self) -> None:
        """Raises FatalError if the process has ended by itself."""
        code = self._popen().poll()
        if code is not None:
            raise self.failure(_ended(code))

    def stop(self) -> None:
        """Asks the process to end; kills it if that takes too long or is interrupted."""
        popen = self._spawn.take() if self._spawn else None
        try:
            if popen and popen.poll() is None:
                if self._stop_signal is not None:
                    popen.send_signal(self._stop_signal)
                with suppress(subprocess.TimeoutExpired):
                    popen.wait(self._stop_seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills the process and its descendants with SIGKILL, and returns when they have ended."""
        if self._spawn is None:
            return
        popen = self._spawn.take()
        if popen is not None:
            if popen.poll() is None:
                _kill_tree(popen.pid)
            popen.wait()
        self._spawn = None

    def failure(self, cause: str) -> FatalError:
        """An error about this process, with `cause` and the end of its log."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        tail = "".join(f"\n    {line[:500]}" for line in lines[-_TAIL_LINES:])
        return FatalError(
            subject=self.name, cause=cause, hint=f"Its log, {self.log}, ends with:{tail}"
        )

    def _popen(self) -> subprocess.Popen[bytes]:
        if self._spawn is None or self._spawn.popen is None:
            raise FatalError(subject=self.name, cause="it is not running", hint="Start it first")
        return self._spawn.popen


class _Spawn:
    """One attempt to start a process, which another thread can cancel.

    The spawner thread calls `run`, the owner of the `Child` calls `take`; `_lock` guards `popen` and
    `_taken`, and `reply` passes the outcome from the first to the second.
    """

    def __init__(self, argv: list[str], cwd: Path, env: dict[str, str], log: Path) -> None:
        self.popen: subprocess.Popen[bytes] | None = None
        #: The outcome, put once. A SimpleQueue, because its C code cannot be interrupted half-way.
        self.reply: SimpleQueue[Exception | None] = SimpleQueue()
        self._argv, self._cwd, self._env, self._log = argv, cwd, env, log
        self._lock = threading.Lock()
        self._taken = False

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001  # the thread that waits for the reply raises it
            self.reply.put(error)
        else:
            self.reply.put(None)

    def _run(self) -> None:
        with self._lock:
            if self._taken:
                return
            descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                self.popen = subprocess.Popen(  # noqa: S603  # our own argument list, no shell
                    self._argv,
                    cwd=self._cwd,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=descriptor,
                    stderr=descriptor,
                    start_new_session=True,
                    umask=0o077,
                )
            finally:
                os.close(descriptor)

    def take(self) -> subprocess.Popen[bytes] | None:
        """The process; None if it was not started, and then it never will be."""
        with self._lock:
            self._taken = True
            return self.popen


@functools.cache
def _requests() -> "SimpleQueue[_Spawn]":
    """The queue of the spawner thread, which starts all children.

    The kernel kills a child when the *thread* that started it ends, so that thread must live as long as
    the process. Also, a KeyboardInterrupt is raised in the main thread only, so it cannot come between
    the start of a process and the moment its pid is stored. An executor would not do: if interrupted
    while it starts its thread, it waits for that thread forever at exit.
    """
    requests: SimpleQueue[_Spawn] = SimpleQueue()

    def serve() -> None:
        while True:
            requests.get().run()

    threading.Thread(target=serve, name="embedded-spawner", daemon=True).start()
    return requests


def _kill_tree(root: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(root, signal.SIGSTOP)  # so that it starts no more children while they are listed
    with ExitStack() as stack:
        poller = select.poll()
        alive = set()
        for pid in (root, *_descendants(root)):
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                poller.register(descriptor, select.POLLIN)
                alive.add(descriptor)
        deadline = time.monotonic() + _KILL_SECONDS
        while alive and time.monotonic() < deadline:
            for descriptor, _ in poller.poll(1000 * _KILL_SECONDS):
                poller.unregister(descriptor)
                alive.discard(descriptor)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                # The command's name, in brackets, may contain spaces and brackets itself.
                stat = Path(entry.path, "stat").read_text(encoding="ascii", errors="replace")
                parent = int(stat.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(root, []))
    for pid in found:  # the list grows during the loop
        found.extend(children.get(pid, []))
    return found


def _ended(code: int) -> str:
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}"


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports of 127.0.0.1 on which nothing listens now.

    Raises:
        FatalError: There are not enough.
    """
    with ExitStack() as stack:
        ports: list[int] = []
        for _ in range(20 * count + 200):
            if len(ports) == count:
                return ports
            port = _PORTS.start + secrets.randbelow(len(_PORTS))
            probe = stack.enter_context(closing(socket.socket()))
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
    raise FatalError(
        subject="127.0.0.1", cause=f"no {count} free ports in {_PORTS.start}-{_PORTS.stop - 1}"
    )


def accepts(port: int) -> bool:
    """Whether something accepts TCP connections at this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
