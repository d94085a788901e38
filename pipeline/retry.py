"""One request asked again while its errors are those that pass: exponential backoff, full jitter, a bounded number."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from pipeline import instruments, logs
from pipeline.storage_errors import cause, is_transient

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently one request is tried.

    Args:
        attempts: tries of one request.
        max_backoff: seconds between two tries at most.
        sleep: waits that many seconds between two tries.
    """

    attempts: int = 8
    max_backoff: float = 20.0
    sleep: Callable[[float], None] = time.sleep

    def run(self, attempt: Callable[[], T]) -> T:
        """What ``attempt`` returns; raises the error that stays, or the last one when the tries are used up."""
        retrying = Retrying(
            sleep=self.sleep,
            retry=retry_if_exception(is_transient),
            stop=stop_after_attempt(self.attempts),
            wait=wait_random_exponential(multiplier=0.2, max=self.max_backoff),
            before_sleep=_again,
            reraise=True,
        )
        instruments.STORAGE_REQUESTS.add()
        return retrying(attempt)


def _again(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    if error is not None:
        instruments.STORAGE_RETRIES.add(cause=cause(error))
        logs.say("debug", "a request is tried again", cause=cause(error), attempt=state.attempt_number)
