"""A tiny actor that counts what each stage does, so that a stalled job can say which stage stood still."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import ray

from pipeline.driver_actor import beside_driver


@dataclass
class StageCounts:
    """Events of one stage: actors loading and ready, shards started and done."""

    counts: dict[str, int] = field(default_factory=lambda: {"loading": 0, "ready": 0, "start": 0, "done": 0})


class _BoardActor:
    """Lives on the driver's node with no resources of its own."""

    def __init__(self) -> None:
        self._stages: dict[str, StageCounts] = {}

    def event(self, stage: str, kind: str) -> None:
        """Counts one event."""
        self._stages.setdefault(stage, StageCounts()).counts[kind] += 1

    def snapshot(self) -> dict[str, dict[str, int]]:
        """All counts by stage."""
        return {stage: dict(found.counts) for stage, found in self._stages.items()}


class Events(Protocol):
    """Where a stage tells what it does."""

    def event(self, stage: str, kind: str) -> None:
        """``kind``: loading, ready, start or done."""
        ...


class Board:
    """A handle to the board that stages and driver share. Telling it something never blocks and never fails a stage."""

    def __init__(self) -> None:
        self._actor: Any = beside_driver(_BoardActor, max_restarts=-1)

    def event(self, stage: str, kind: str) -> None:
        """``kind``: loading, ready, start or done."""
        self._actor.event.remote(stage, kind)

    def queues(self, timeout: float = 5.0) -> tuple[dict[str, int], dict[str, int]]:
        """Shards that wait before each stage but the first, and shards inside each, as far as the stages have told.

        Raises:
            ray.exceptions.RayError: the cluster does not answer.
        """
        stages = ray.get(self._actor.snapshot.remote(), timeout=timeout)
        inside = {stage: max(0, told["start"] - told["done"]) for stage, told in stages.items()}
        order = [stage for stage in ("expand", "generate") if stage in stages]
        waiting = {b: max(0, stages[a]["done"] - stages[b]["start"]) for a, b in pairwise(order)}
        return waiting, inside

    def standing(self, timeout: float = 5.0) -> str:
        """One phrase on where the work stands, for the message of a stalled job."""
        try:
            stages = ray.get(self._actor.snapshot.remote(), timeout=timeout)
        except (ray.exceptions.RayError, TimeoutError):
            return "the cluster does not answer"
        if not stages:
            return "no actor has started (does the cluster have the CPUs and GPUs that the config asks for?)"
        phrases = []
        for stage, counts in stages.items():
            if counts["ready"] == 0:
                phrases.append(f"{stage}: its model is still loading in {counts['loading']} actor(s)")
            elif counts["start"] > counts["done"]:
                phrases.append(f"{stage}: {counts['start'] - counts['done']} shard(s) begun and not finished")
            else:
                phrases.append(f"{stage}: idle after {counts['done']} shard(s)")
        return "; ".join(phrases)
