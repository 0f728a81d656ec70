"""The kernel timer that kills a process, tested in child processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import operators
from operators.errors import FatalError
from operators.ownership.kill_timer import KillTimer

ROOT = Path(operators.__file__).parents[1]
PRELUDE = """
import ctypes, os, signal, sys, threading, time
from operators.ownership.kill_timer import KillTimer
def now(): return time.clock_gettime(time.CLOCK_BOOTTIME)
def wait(seconds):
    until = now() + seconds
    while now() < until: time.sleep(0.01)
timer = KillTimer()
"""
KILLED, LIVED = -signal.SIGKILL, 7
LIVE = f"os._exit({LIVED})"


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[str]]:
    """A child process that runs this code with a `timer`; killed when the test leaves the context."""
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def end_of(code: str) -> int:
    with child(code) as process:
        return process.wait(timeout=20)


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("timer.arm(now() + 0.1); wait(20)", KILLED),
        ("timer.arm(now() + 0.1); threading.Event().wait()", KILLED),
        ("timer.arm(now() + 0.1)\nwhile True: pass", KILLED),
        ("timer.arm(now()); wait(20)", KILLED),
        ("timer.arm(now() - 5); wait(20)", KILLED),
        ("timer.arm(0); wait(20)", KILLED),
        ("timer.arm(-1); wait(20)", KILLED),
        ("timer.arm(now() + 30); timer.arm(now() + 0.1); wait(20)", KILLED),
        ("timer.disarm(); timer.arm(now() + 0.1); wait(20)", KILLED),
        (
            "t = threading.Thread(target=timer.arm, args=(now() + 0.1,))\nt.start(); wait(20)",
            KILLED,
        ),
        (
            "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntimer.arm(now()); wait(20)",
            KILLED,
        ),
        ("timer.arm(now() + 0.1); timer = None; wait(20)", KILLED),
        ("other = KillTimer(); timer.arm(now() + 0.1); other.close(); wait(20)", KILLED),
        ("wait(0.1); " + LIVE, LIVED),
        ("timer.arm(now() + 0.2); timer.disarm(); wait(0.3); " + LIVE, LIVED),
        ("timer.arm(now() + 0.2); timer.arm(now() + 30); wait(0.3); " + LIVE, LIVED),
        ("timer.arm(now() + 0.2); timer.close(); wait(0.3); " + LIVE, LIVED),
        (
            "timer.close(); timer.close(); timer.disarm(); timer.arm(now()); wait(0.1); " + LIVE,
            LIVED,
        ),
        (
            "for _ in range(6):\n    timer.arm(now() + 0.2)\n    wait(0.05)\n" + LIVE,
            LIVED,
        ),
    ],
)
def test_how_a_process_ends(code: str, end: int):
    assert end_of(code) == end


def test_a_stopped_process_dies_in_the_stop_and_at_the_moment():
    with child("at = now() + 0.4; timer.arm(at); print(at, flush=True); wait(20)") as process:
        assert process.stdout is not None
        moment = float(process.stdout.readline())
        os.kill(process.pid, signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        # No SIGCONT is sent: SIGKILL ends the process while it is stopped.
        _, status = os.waitpid(process.pid, 0)
        died = time.clock_gettime(time.CLOCK_BOOTTIME)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == KILLED
        assert moment <= died < moment + 2


def test_no_thread_of_it_runs_after_the_moment():
    writers = """
def write():
    while True: os.write(1, f"{now()}\\n".encode())
print(now() + 0.3, flush=True)
timer.arm(now() + 0.3)
for _ in range(16): threading.Thread(target=write).start()
"""
    with child(writers) as process:
        out, _ = process.communicate(timeout=20)
    assert process.returncode == KILLED
    first, *written = out.splitlines()
    assert len(written) > 16
    # The signal does not reach all threads at the same instant.
    assert max(map(float, written)) < float(first) + 0.5


def test_many_threads_put_it_off_at_once():
    code = """
until = now() + 0.5
def put_off():
    while now() < until: timer.arm(now() + 2)
threads = [threading.Thread(target=put_off) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    assert end_of(code + LIVE) == LIVED
    assert end_of(code + "wait(20)") == KILLED


def test_a_forked_child_does_not_inherit_it():
    code = """
timer.arm(now() + 0.2)
if os.fork() == 0:
    wait(0.4)
    try:
        timer.arm(now())
    except Exception as error:
        print(type(error).__name__, error.cause, flush=True)
    timer.close()
    print("lives", flush=True)
    os._exit(0)
wait(20)
"""
    with child(code) as process:
        out, _ = process.communicate(timeout=20)
    assert process.returncode == KILLED
    assert out == "FatalError belongs to the process that forked this one\nlives\n"


def test_no_moment_is_refused():
    timer = KillTimer()
    try:
        for moment in (float("nan"), float("inf"), float("-inf")):
            with pytest.raises(FatalError, match="no moment"):
                timer.arm(moment)
    finally:
        timer.close()


@pytest.mark.parametrize("moment", [2.0**33, 2.0**62, 2.0**63, 2.0**64, 1e300])
def test_a_moment_beyond_all_clocks_does_not_come_round(moment: float):
    timer = KillTimer()
    try:
        timer.arm(moment)  # Truncated to 64 bits, some of these would lie in the past.
    finally:
        timer.close()


def test_the_first_process_of_a_container_is_told(monkeypatch: pytest.MonkeyPatch):
    """The kernel drops a timer's SIGKILL to process 1, so the timer would not work there."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(FatalError, match="process 1") as refused:
        KillTimer()
    assert "init" in refused.value.hint


def test_a_machine_that_has_no_such_timer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(FatalError, match="cannot be had on darwin"):
        KillTimer()
    monkeypatch.undo()
    monkeypatch.setattr("operators.ownership.kill_timer._CLOCK_BOOTTIME", 99)
    with pytest.raises(FatalError, match="refused by the kernel: EINVAL"):
        KillTimer()
