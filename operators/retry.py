"""Retries calls to a store with back-off, up to a time limit, and gives up when the flow ends."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import tenacity

from operators.errors import FatalError, RetriableError
from operators.telemetry import Telemetry

STOPPING_S = 10.0

T = TypeVar("T")

logger = logging.getLogger(__name__)


class _StopWhenStopping(tenacity.stop.stop_base):
    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return self._stopping() and (retry_state.seconds_since_start or 0.0) >= STOPPING_S


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """For how long a call that fails transiently is retried.

    Attributes:
        for_s: Seconds after which the store counts as gone.
        abort: Set when the flow must end; retrying then ends at once.
        stopping: Whether the flow was asked to stop. If so, retrying ends after `STOPPING_S`, so that
            the process has ended before whoever asked kills it.
    """

    for_s: float
    telemetry: Telemetry
    abort: threading.Event = field(default_factory=threading.Event)
    max_wait_s: float = 3.0
    stopping: Callable[[], bool] = lambda: False

    def call(self, function: Callable[[], T]) -> T:
        """Call `function`, and call it again while it raises RetriableError.

        Raises:
            FatalError: It still failed when the time was up. Nothing is lost: the flow stops before
                its next checkpoint, and a restart resumes from the last one.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(RetriableError),  # guard: retry-transient-only
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=self.max_wait_s),
            stop=tenacity.stop_any(
                tenacity.stop_after_delay(self.for_s),  # guard: retry-bound
                tenacity.stop_when_event_set(self.abort),  # guard: retry-abort
                _StopWhenStopping(self.stopping),  # guard: retry-stopping
            ),
            sleep=tenacity.sleep_using_event(self.abort),
            before_sleep=self._log,
            reraise=True,
        )
        try:
            return retrying(function)
        except RetriableError as error:
            waited = retrying.statistics.get("delay_since_first_attempt", 0.0)
            raise FatalError(
                subject=error.subject,
                cause=f"{error.cause}; gave up after {waited:.0f} s",
                hint=f"{error.hint or 'Bring it back'}. Then start again: nothing is lost",
            ) from error

    def _log(self, state: tenacity.RetryCallState) -> None:
        self.telemetry.store_retries.add(1)
        outcome = state.outcome
        wait = state.next_action.sleep if state.next_action else 0.0
        logger.warning("%s Trying again in %.1f s.", outcome and outcome.exception(), wait)
