"""Process 1 of a container: it starts a child, passes signals on, and ends as the child does."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import os, signal, sys, time
real, os.getpid = os.getpid, lambda: 1
from flows.process.first_process import work_in_a_child
first = real()
work_in_a_child()
assert real() != first
def end(number, frame):
    print("told", number, flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
print("working", flush=True)
"""


def started(then: str, program: str = PROGRAM) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program + then],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(3)", 3),
        ("os.kill(real(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ],
)
def test_it_ends_as_its_child_does(then: str, code: int) -> None:
    with started(then) as process:
        assert process.wait() == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    with started("time.sleep(60)") as process:
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.readline() == f"told {int(number)}\n"
        assert process.wait() == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_the_child_starts_is_passed_on(number: signal.Signals) -> None:
    slow = """
import os, time
fork = os.fork
def slow_fork():
    child = fork()
    if child:
        time.sleep(1)  # meanwhile the child works, and the test sends its signal
    return child
os.fork = slow_fork
"""
    with started("time.sleep(60)", slow + PROGRAM) as process:
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.readline() == f"told {int(number)}\n"
        assert process.wait() == 7


def test_orphans_are_reaped_and_do_not_end_it() -> None:
    # An orphan: only a real process 1 inherits one, so the test makes it a child of this process.
    then = "os.fork() or os._exit(0)\ntime.sleep(0.3)\nsys.exit(5)"
    with started(then) as process:
        assert process.wait() == 5


def test_any_other_process_does_its_own_work() -> None:
    program = (
        "import os\nfrom flows.process.first_process import work_in_a_child\nbefore = os.getpid()\n"
        "work_in_a_child()\nassert os.getpid() == before\nprint('working', flush=True)\n"
    )
    with started("", program) as process:
        assert process.wait() == 0
