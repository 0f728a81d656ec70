"""While a flow runs, the garbage collector runs rarely but does run; afterwards it is as before."""

import gc
import weakref

import pytest

from flows.process.garbage_collector import THRESHOLDS, seldom_collected


class Cycle:
    """An object in a reference cycle, which only the collector can free."""

    def __init__(self) -> None:
        self.itself = self


def test_cycles_are_still_collected():
    with seldom_collected():
        gone = weakref.ref(Cycle())
        kept = [[each] for each in range(2 * THRESHOLDS[0])]
        assert gone() is None
    assert len(kept) == 2 * THRESHOLDS[0]


def test_what_was_there_before_is_looked_at_no_more():
    cycle = Cycle()
    gone = weakref.ref(cycle)
    with seldom_collected():
        del cycle
        gc.collect()
        assert gone() is not None
    gc.collect()
    assert gone() is None


def test_afterwards_all_is_as_it_was():
    before = gc.get_threshold()
    with seldom_collected():
        assert gc.get_threshold() == THRESHOLDS
    assert gc.get_threshold() == before
    with pytest.raises(ZeroDivisionError), seldom_collected():
        raise ZeroDivisionError
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
