"""How many requests may be under way at once, found by asking: additive increase, multiplicative decrease.

A server that answers lets one more request through for each windowful of answers; one that says "too many" halves the
window (Chiu and Jain, "Analysis of the increase and decrease algorithms for congestion avoidance", 1989). Before the
first such reply the window doubles with each windowful, as TCP's slow start does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


class Aimd:
    """A window of requests. Used from one event loop.

    Args:
        most: requests under way at once at most.
        start: the window at the beginning.
        clock: seconds, monotonic.
        sleep: waits for as many seconds.
    """

    def __init__(
        self,
        most: int,
        *,
        start: int = 4,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if most < 1 or start < 1:
            raise ValueError(f"most ({most}) and start ({start}) must be at least 1")
        self._most, self._clock, self._sleep = most, clock, sleep
        self._window = float(min(start, most))
        self._threshold = float("inf")  # below it the window doubles, above it grows by one
        self._epoch = 0
        self._under_way = 0
        self._resume = float("-inf")
        self._changed = asyncio.Condition()

    @property
    def window(self) -> int:
        """Requests that may be under way now."""
        return int(self._window)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[int]:
        """Holds one place in the window, after any pause that the server asked for; yields the turn's epoch."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._under_way < self.window)
            self._under_way += 1
        try:
            while (rest := self._resume - self._clock()) > 0:
                await self._sleep(rest)
            yield self._epoch
        finally:
            self._under_way -= 1
            async with self._changed:
                self._changed.notify_all()

    def answered(self) -> None:
        """A request was answered: the window grows."""
        step = 1.0 if self._window < self._threshold else 1.0 / self._window
        self._window = min(float(self._most), self._window + step)

    def refused(self, epoch: int, pause: float = 0.0) -> None:
        """The server said "too many".

        The requests that were under way together are one event, however many of them were refused: the window is
        halved for the first alone.

        Args:
            epoch: from the refused request's `turn`.
            pause: seconds for which the server wants no request at all.
        """
        self._resume = max(self._resume, self._clock() + pause)
        if epoch == self._epoch:
            self._epoch += 1
            self._window = self._threshold = max(1.0, self._window / 2)
