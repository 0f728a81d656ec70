"""Settings of Python's garbage collector while a flow runs."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = (50_000, 10, 5)
"""More objects than a window of rows creates, so that most are freed before the collector runs.

With the defaults it would examine each waiting row several times, and the whole version map every few
thousand rows.
"""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Let the collector run rarely, and ignore all existing objects: model, clients, code.

    Cycles that the flow creates are still collected, but up to 50,000 objects may wait for that.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
