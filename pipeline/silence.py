"""How long nothing has come, as this process has lived it: what it slept through is no silence of the others."""

from __future__ import annotations

import time
from collections.abc import Callable

_LONGEST = 10.0
"""Seconds between two looks above which the process itself was stopped (SIGSTOP, a suspended machine), or starved."""


class Silence:
    """Sums the time between looks, each counted as `_LONGEST` at most.

    A driver that was paused for an hour has heard nothing for an hour, and that says nothing about its actors, which
    wait for it: it must give them their time again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._seen, self._seconds = clock, clock(), 0.0

    def seconds(self) -> float:
        """Looks at the clock; returns the seconds since the last `broken`."""
        now = self._clock()
        self._seconds += min(now - self._seen, _LONGEST)
        self._seen = now
        return self._seconds

    def broken(self) -> None:
        """Something has come."""
        self._seen, self._seconds = self._clock(), 0.0
