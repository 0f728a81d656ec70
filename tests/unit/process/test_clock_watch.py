"""A system clock that is set back is told; anything else that clocks do is not."""

import logging

import pytest

from flows.process.clock_watch import ClockWatch


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([0.0, 0.1, -0.1], []),
        ([3_600.0], []),
        ([-2.0, -2.0], []),
        ([-3_600.0, 0.0, 0.0], ["set back by 3600 s"]),
        ([7_200.0, -10.0, -60.0], ["set back by 10 s", "set back by 60 s"]),
    ],
    ids=["slewed", "forward", "a little", "back", "forward and back"],
)
def test_a_clock_that_is_set_back_is_told(
    steps: list[float], told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    steady, system = [100.0], [1_700_000_000.0]
    watch = ClockWatch(lambda: system[0], lambda: steady[0])
    for step in steps:
        steady[0] += 2.0
        system[0] += 2.0 + step
        watch.check()
    messages = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(messages) == len(told)
    for message, words in zip(messages, told, strict=True):
        assert words in message
    watch.close()
