"""The duties of process 1 in a container without an init.

The kernel protects process 1 from its own signals, even from the timer that kills a process when its
lease runs out. So process 1 only supervises a child, which does the work.
"""

import os
import signal
import sys
from types import FrameType


def work_in_a_child() -> None:
    """If this is process 1, fork: return in the child, and exit here with the child's exit code.

    In any other process it returns at once. Call it before threads are started and libraries loaded.
    Process 1 passes SIGTERM and SIGINT on to the child, and reaps orphans.
    """
    if os.getpid() != 1:
        return
    passed_on = (signal.SIGTERM, signal.SIGINT)
    # A signal that comes before the handlers are set waits; it would be lost otherwise.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in passed_on:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            sys.exit(code if code >= 0 else 128 - code)
