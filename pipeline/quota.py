"""How many shards of a run may be under way at once, from their reading to their commit (``limits.max_in_flight``).

Ray Data bounds what waits between two stages by its memory, not by its number. Here a reader asks for leave before it
reads, and the driver gives the place back when the shard's outcome has arrived. Places belong to shards and not to
tasks, so that a read which Ray does again, or a reader that died while it waited, takes no second one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray

from pipeline.driver_actor import beside_driver


class _QuotaActor:
    """Lives on the driver's node with no resources of its own."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: set[int] = set()
        self._done: set[int] = set()
        self._changed = asyncio.Condition()

    async def admit(self, shard: int) -> None:
        """Returns when the shard has a place, or needs none any more."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._known(shard) or len(self._under_way) < self._most)
            if shard not in self._done:
                self._under_way.add(shard)

    async def release(self, shard: int) -> None:
        """Gives the shard's place to another one, for good."""
        async with self._changed:
            self._done.add(shard)
            self._under_way.discard(shard)
            self._changed.notify_all()

    def _known(self, shard: int) -> bool:
        return shard in self._under_way or shard in self._done


class Quota:
    """A handle that readers and driver share.

    Args:
        most: shards under way at once.
    """

    def __init__(self, most: int) -> None:
        self._actor: Any = beside_driver(_QuotaActor, most)

    def admit(self, shard: int) -> None:
        """Waits until the shard may be read."""
        # An actor that was lost knows no places any more: better a run without a bound than one that stands still.
        with contextlib.suppress(ray.exceptions.RayActorError):
            ray.get(self._actor.admit.remote(shard))

    def release(self, shard: int) -> None:
        """The shard is committed; never waits."""
        self._actor.release.remote(shard)
