"""A thread that does something now and then, for as long as the flow runs."""

import threading
from collections.abc import Callable


class Periodic:
    """Calls something at fixed intervals.

    Threads: its own thread makes the calls; any thread may start and close it, once.

    Args:
        name: The thread's.
        every_s: Seconds between two calls; the first comes after that, too.
        call: Must raise nothing: an exception ends the thread.
    """

    def __init__(self, name: str, every_s: float, call: Callable[[], None]) -> None:
        self._every_s = every_s
        self._call = call
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; a call that is running is waited for."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._call()
