"""Starts the processes of a benchmark, which are modules of this package, and reads their CPU time.

The processes signal their progress by files in a shared folder.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from flows.embedded.process import Child

LIMIT_S = 300.0
"""Timeout of everything that a benchmark waits for."""

_ROOT = Path(__file__).resolve().parents[1]
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def module(
    name: str, directory: Path, *arguments: str | Path, called: str, stop_s: float = 60.0
) -> Child:
    """A child that will run `python -m NAME` in this process's environment; not started yet.

    Args:
        name: The module.
        directory: Its working directory, also for its log; must exist.
        arguments: Arguments after the module's name.
        called: Its name in errors and in the name of its log.
        stop_s: How long it may take to end when it is stopped.
    """
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return Child(
        called,
        [sys.executable, "-m", name, *arguments],
        directory=directory,
        env={**os.environ, "PYTHONPATH": path},
        stop_seconds=stop_s,
    )


def tell(path: Path, told: object) -> None:
    """Write JSON to a file atomically."""
    written = path.with_name(f"{path.name}.new")
    written.write_bytes(orjson.dumps(told))
    written.rename(path)


def wait_for(path: Path, *children: Child, look_s: float = 0.05) -> None:
    """Wait for a file that one of the children writes; a child may end after it has written the file.

    Raises:
        FatalError: A child ended before the file existed, or the wait timed out; the message quotes
            the child's log.
    """
    deadline = time.monotonic() + LIMIT_S
    while True:
        ended = [child for child in children if child.pid is None]
        if path.exists():
            return
        for child in ended:
            child.check()
        if time.monotonic() > deadline:
            raise children[0].failure(f"{path.name} was not there within {LIMIT_S:g} s")
        time.sleep(look_s)


def pid_of(start: Callable[[], None]) -> int:
    """Call `start`, which starts one child of this process, and return the child's process id."""
    before = _children()
    start()
    (pid,) = _children() - before
    return pid


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a running process, in the resolution of the kernel's tick."""
    fields = _stat(Path("/proc", str(pid)))
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _children() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int(_stat(entry)[1])
            except OSError:
                continue
            if parent == os.getpid():
                found.add(int(entry.name))
    return found


def _stat(process: Path) -> list[str]:
    """The fields of `stat` from the state on; the name before it may hold blanks and brackets."""
    text = (process / "stat").read_text(encoding="ascii", errors="replace")
    return text.rpartition(")")[2].split()
