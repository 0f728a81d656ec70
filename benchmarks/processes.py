"""Processes that a benchmark starts: modules of this package, and the CPU time that each has taken.

They tell one another how far they are by files in a folder that they share.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from flows.embedded.process import Child

LIMIT_S = 300.0
"""How long anything that a benchmark waits for may take."""

_ROOT = Path(__file__).resolve().parents[1]
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def module(
    name: str, directory: Path, *arguments: str | Path, called: str, stop_s: float = 60.0
) -> Child:
    """`python -m NAME` as a child that has this process's environment; not started yet.

    Args:
        name: The module.
        directory: Its working directory, and where its log goes; exists.
        arguments: After the module's name.
        called: What errors and its log call it.
        stop_s: How long it may take to end when it is asked to.
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
    """Write JSON, so that the file is there whole or not at all."""
    written = path.with_name(f"{path.name}.new")
    written.write_bytes(orjson.dumps(told))
    written.rename(path)


def wait_for(path: Path, *children: Child, look_s: float = 0.05) -> None:
    """Wait for a file that one of some children makes; whoever made it may have ended by then.

    Raises:
        FatalError: One has ended and the file is not there, or it takes too long; the message quotes
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
    """Start something that is one more child of this process, and tell its process id."""
    before = _children()
    start()
    (pid,) = _children() - before
    return pid


def cpu_s(pid: int) -> float:
    """CPU seconds of a process that runs, of all its threads, to the kernel's tick."""
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
    """The fields of `stat` from the state on: the name before it may hold blanks and brackets."""
    text = (process / "stat").read_text(encoding="ascii", errors="replace")
    return text.rpartition(")")[2].split()
