"""What process 1 of a container has to do, where the container brings no init.

The kernel protects process 1 from its own signals, even from the timer that ends a process whose lease
has run out. So process 1 only watches over a child, which does the work.
"""

import os
import signal
import sys
from types import FrameType


def work_in_a_child() -> None:
    """In process 1, start a child and end as it ends; returns in the child, and in any other process.

    Call it before threads are started and libraries loaded. SIGTERM and SIGINT are passed on; orphans
    that come to process 1 are reaped.
    """
    if os.getpid() != 1:
        return
    child = os.fork()
    if child == 0:
        return

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            sys.exit(code if code >= 0 else 128 - code)
