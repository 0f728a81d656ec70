"""Ctrl-C, or `kill -INT`, ends a command however it was started."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import time
from flows import cli

def work():
    print("working", flush=True)
    time.sleep(600)

cli.app = work
cli.main()
"""


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_it_ends_a_command_also_where_a_script_has_started_it_in_the_background(
    before: signal.Handlers,
) -> None:
    # A shell that runs a script ignores SIGINT on behalf of what it starts with `&`.
    preparation = (
        f"import os, signal, sys; signal.signal(signal.SIGINT, signal.Handlers({int(before)})); "
    )
    become = "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", preparation + become, PROGRAM],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "working\n"
            process.send_signal(signal.SIGINT)
            assert process.wait() == 128 + signal.SIGINT
        finally:
            process.kill()
