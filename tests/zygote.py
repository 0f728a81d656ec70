"""Commands of Rowvec that start at once: each is a fork of a process that has done the imports only.

The imports (torch, transformers, pymilvus, Bytewax) take seconds, and a thousand kills would take hours.
The parent of the forks has run nothing: it has no connection, no thread of Python's, no model. So what a
fork does from there is all that `rowvec` does after its imports.
"""

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from flows.embedded import launcher
from operators import crash_points

ROOT = Path(__file__).resolve().parents[1]

_START_SECONDS = 120.0
_IMPORTS = (
    "flows.cli",
    "flows.process.progress",
    "flows.runtime",
    "operators.model.transformer",
    "transformers.models.bert.modeling_bert",
)


class Order(NamedTuple):
    """A process to start.

    Attributes:
        argv: Of `rowvec`, without its name.
        env: All of its environment besides what the zygote has.
        directory: Where it works.
        stdout, stderr: Where its standard output and errors go; may be the same.
        notes: Where it writes down what it does to the collection; "" for not at all.
        kill_at: The crash point at which it is killed, and at which visit of it.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    directory: str
    stdout: str
    stderr: str
    notes: str = ""
    collection: str = ""
    kill_at: tuple[crash_points.Point, int] | None = None


class Fork:
    """A process of `rowvec`; it dies with the zygote, which dies with us."""

    def __init__(self, zygote: "Zygote", number: int) -> None:
        self._zygote = zygote
        self._number = number
        self._began, self._ended = threading.Event(), threading.Event()
        self._pid = self._status = 0

    @property
    def pid(self) -> int:
        self._began.wait()
        self._zygote.check()
        return self._pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal; the process's parent does it, so that it never strikes another process."""
        self._zygote.tell("signal", [self._number, int(number)])

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; whether it has."""
        ended = self._ended.wait(seconds)
        self._zygote.check()
        return ended

    @property
    def code(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        return os.waitstatus_to_exitcode(self._status) if self._ended.is_set() else None

    def begin(self, pid: int) -> None:
        self._pid = pid
        self._began.set()

    def end(self, status: int) -> None:
        self._status = status
        self._ended.set()


class Zygote:
    """The process that forks; to be used in a `with` of a thread that outlives all flows.

    Args:
        directory: Its working directory and HOME.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._forks: dict[int, Fork] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._gone = threading.Event()

    def __enter__(self) -> Self:
        launch = (sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), "keep")
        self._log = (self._directory / "zygote.log").open("wb")
        self._popen = subprocess.Popen(
            [*launch, sys.executable, "-m", "tests.zygote"],
            cwd=self._directory,
            env={
                "PATH": os.defpath,
                "HOME": str(self._directory),
                "LC_ALL": "C.UTF-8",
                "PYTHONPATH": str(ROOT),
                "HF_HUB_OFFLINE": "1",
                "COLUMNS": "400",
                # A pool of threads does not survive a fork.
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "ARROW_DEFAULT_MEMORY_POOL": "system",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, name="zygote", daemon=True)
        self._listener.start()
        if not self._ready.wait(_START_SECONDS):
            self.__exit__(None, None, None)
            raise AssertionError("the zygote did not come up")
        self.check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._popen.kill()  # its flows go with it
        self._popen.wait()
        self._listener.join()
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.close()
        self._popen.stdout.close()
        self._log.close()

    def start(self, order: Order) -> Fork:
        """Fork a process; it is on its way when this returns."""
        with self._lock:
            number = len(self._forks)
            fork = self._forks[number] = Fork(self, number)
        self.tell("start", [number, order._asdict()])
        return fork

    def tell(self, what: str, values: Any) -> None:
        self.check()
        assert self._popen.stdin is not None
        with self._lock:
            self._popen.stdin.write(json.dumps([what, values]).encode() + b"\n")
            self._popen.stdin.flush()

    def check(self) -> None:
        """Raises AssertionError if the zygote is gone, and all flows with it."""
        if self._gone.is_set():
            log = (self._directory / "zygote.log").read_text("utf-8", "replace")
            raise AssertionError(f"the zygote has ended:\n{log}")

    def _listen(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            match json.loads(line):
                case ["ready"]:
                    self._ready.set()
                case ["began", number, pid]:
                    self._forks[number].begin(pid)
                case ["ended", number, status]:
                    self._forks[number].end(status)
        self._gone.set()
        self._ready.set()
        for fork in self._forks.values():
            fork._began.set()
            fork._ended.set()


def _warm_up() -> None:
    """Import all that `rowvec run` imports; no thread of ours may come of it."""
    import torch

    for name in _IMPORTS:
        importlib.import_module(name)
    torch.set_num_threads(1)
    if threading.active_count() != 1:
        raise SystemExit("an import has started a thread")
    gc.collect()
    gc.freeze()


def _serve() -> Order | None:
    """Take commands until there are none; in a fork, what it is to run."""
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever else writes there is no reply
    poller = select.poll()
    poller.register(0, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}
    handles: dict[int, int] = {}
    os.write(replies, b'["ready"]\n')
    rest = b""
    while True:
        for descriptor, _ in poller.poll():
            if descriptor != 0:
                number, pid = running.pop(descriptor)
                _, status = os.waitpid(pid, 0)
                del handles[number]
                poller.unregister(descriptor)
                os.close(descriptor)
                os.write(replies, b'["ended", %d, %d]\n' % (number, status))
                continue
            data = os.read(0, 1 << 16)
            if not data:
                return None
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                what, (number, value) = json.loads(line)
                if what == "signal":
                    if number in handles:
                        signal.pidfd_send_signal(handles[number], value)
                    continue
                parent = os.getpid()
                pid = os.fork()
                if pid == 0:
                    launcher.die_with_parent(parent)
                    for each in (replies, *running):
                        os.close(each)
                    return Order(**value)
                handle = os.pidfd_open(pid)
                running[handle], handles[number] = (number, pid), handle
                poller.register(handle, select.POLLIN)
                os.write(replies, b'["began", %d, %d]\n' % (number, pid))


def _become(order: Order) -> None:
    """Run the command in this fork, as if it had been started by itself."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for path, target in ((order.stdout, 1), (order.stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), target)
    os.chdir(order.directory)
    os.environ.update(order.env)
    if order.notes:
        from tests.chaos.notes import write_notes

        write_notes(Path(order.notes), order.collection)
    if order.kill_at is not None:
        crash_points.listen(crash_points.kill_at(*order.kill_at))
    sys.argv = ["rowvec", *order.argv]
    from flows import cli

    cli.main()


if __name__ == "__main__":
    _warm_up()
    _order = _serve()
    if _order is not None:
        _become(_order)
