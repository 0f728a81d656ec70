"""The guards of operators/retry.py."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import replaced, without
from tests.mutation.selections import RETRY

GUARDS: tuple[Guard, ...] = (
    Guard(
        "retry-bound",
        "a store that stays away is given up after a while",
        replaced("tenacity.stop_after_delay(self.for_s)", by="tenacity.stop_never"),
        RETRY,
    ),
    Guard(
        "retry-transient-only",
        "only errors that may pass are retried",
        replaced("RetriableError", by="Exception"),
        RETRY,
    ),
    Guard(
        "retry-stopping",
        "a flow that was asked to stop does not go on waiting",
        without("_StopWhenStopping(self.stopping)"),
        RETRY,
    ),
    Guard(
        "retry-abort",
        "a flow that is being torn down waits for nothing",
        without("tenacity.stop_when_event_set(self.abort)"),
        RETRY,
    ),
)
