"""Python's garbage collector, while a flow runs."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = (50_000, 10, 5)
"""More objects than a window of rows makes, so that most are gone before the collector looks for them.

The defaults would have it look at each row in waiting several times, and at all that is known of the
rows' versions every few thousand rows.
"""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Have the collector look seldom, and never again at what is there already: model, clients, code.

    Cycles that the flow itself makes are still found. What it costs is that up to 50,000 objects wait
    for that.
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
