"""A demo that is interrupted says so when it is true, and has ended by then."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from flows import demo

class Demo:
    def __init__(self, console, cleanup, rows, *, keep):
        cleanup.callback(self.clean_up)

    def run(self):
        # As the model's thread does: Python would wait for it at its end.
        ThreadPoolExecutor(1).submit(time.sleep, 600)
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        print("running", flush=True)
        time.sleep(600)

    def clean_up(self):
        print("cleaning up", flush=True)
        if len(sys.argv) > 1:
            time.sleep(600)  # until the second Ctrl-C

demo._Demo = Demo
demo.run_demo(rows=100, keep=False, as_json=False)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("twice", [False, True])
def test_an_interrupted_demo_ends_with_its_last_message(
    number: signal.Signals, twice: bool
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *(["slow"] if twice else [])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == "running\n"
            process.send_signal(number)
            assert process.stdout.readline() == "cleaning up\n"
            if twice:
                process.send_signal(number)
            assert process.wait() == 128 + number
            rest, errors = process.stdout.read(), process.stderr.read()
        finally:
            process.kill()
    assert rest.split() == ["Stopped;", "nothing", "is", "left", "running."]
    assert errors == ""
