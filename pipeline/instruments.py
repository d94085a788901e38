"""All metrics of a run, recorded through Ray: its agents show them to Prometheus, with ``ray_`` before each name.

Nothing is recorded before `start`: code that also runs without Ray (the store, its retries) records all the same, and
costs a comparison. Counters end in ``_total`` where Prometheus reads them. Each has the label ``run``.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PREFIX = "ray_"
_lock = threading.Lock()
_made: dict[str, Any] = {}
_run: str | None = None


@dataclass(frozen=True)
class Instrument:
    """One metric.

    Args:
        name: as Ray is told it.
        meaning: its line of help, with the unit.
        labels: besides ``run``.
    """

    name: str
    meaning: str
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names that Prometheus reads."""
        return (f"{PREFIX}{self.name}",)

    def _metric(self) -> Any:
        """Ray's own metric, made at the first use in this process."""
        with _lock:
            if self.name not in _made:
                _made[self.name] = self._make().set_default_tags({"run": _run or ""})
            return _made[self.name]

    def _make(self) -> Any:
        raise NotImplementedError


class Counter(Instrument):
    """Only grows."""

    @property
    def series(self) -> tuple[str, ...]:
        """The names that Prometheus reads."""
        return (f"{PREFIX}{self.name}_total",)

    def add(self, amount: float = 1, **labels: str) -> None:
        """Adds ``amount``; 0 is nothing."""
        if _run is not None and amount > 0:
            self._metric().inc(amount, labels)

    def _make(self) -> Any:
        from ray.util import metrics

        return metrics.Counter(self.name, self.meaning, ("run", *self.labels))


class Gauge(Instrument):
    """Has a value now. Ray forgets one that is not set again within 20 s, so that the dead leave no values behind."""

    def set(self, value: float, **labels: str) -> None:
        """Sets the value."""
        if _run is not None:
            self._metric().set(value, labels)

    def _make(self) -> Any:
        from ray.util import metrics

        return metrics.Gauge(self.name, self.meaning, ("run", *self.labels))


class Histogram(Instrument):
    """Counts values by size, here always seconds."""

    @property
    def series(self) -> tuple[str, ...]:
        """The names that Prometheus reads."""
        return tuple(f"{PREFIX}{self.name}_{part}" for part in ("bucket", "count", "sum"))

    def observe(self, seconds: float, **labels: str) -> None:
        """Counts one value."""
        if _run is not None:
            self._metric().observe(seconds, labels)

    def _make(self) -> Any:
        from ray.util import metrics

        return metrics.Histogram(self.name, self.meaning, list(_SECONDS), ("run", *self.labels))


_SECONDS: Sequence[float] = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

# Told by the driver, which sees each shard once.
SHARDS_PLANNED = Gauge("promptmill_shards_planned", "shards of the plan")
SHARDS_COMMITTED = Gauge("promptmill_shards_committed", "shards that have a commit record, earlier starts' too")
SHARDS = Counter("promptmill_shards", "shards of this start: made, or adopted from another writer", ("how",))
ROWS = Counter("promptmill_rows", "prompt rows that are accounted for: committed or rejected", ("outcome",))
REJECTS = Counter("promptmill_rejects", "rejected prompt rows by reason", ("reason",))
IMAGES = Counter("promptmill_images", "images committed")
DESCRIPTIONS = Counter(
    "promptmill_descriptions", "descriptions by status; all but accepted and prompt are fallbacks", ("status",)
)
TOKENS = Counter("promptmill_tokens", "tokens: generated, or read by an endpoint", ("kind",))
OUTPUT_BYTES = Counter("promptmill_output_bytes", "bytes of committed data objects and their parts")
SINCE_COMMIT = Gauge("promptmill_seconds_since_commit", "seconds since a shard was committed, or since the start")
STALL_LIMIT = Gauge("promptmill_stall_limit_seconds", "limits.stall_timeout: seconds after which the run stops itself")
REJECT_LIMIT = Gauge("promptmill_reject_limit", "limits.max_reject_fraction: share of rows, 0 to 1")
QUEUE = Gauge("promptmill_queue_shards", "shards that wait before a stage", ("stage",))
INSIDE = Gauge("promptmill_inside_shards", "shards inside a stage, those of lost actors too", ("stage",))
COST = Gauge("promptmill_cost", "cost of this start so far, in the currency of the config's prices")
COST_EXPECTED = Gauge("promptmill_cost_expected", "cost of the whole plan at the cost of this start's shards")
COST_PLANNED = Gauge("promptmill_cost_planned", "limits.planned_cost: what the whole plan is to cost")

# Told by the actors.
ACTORS = Gauge("promptmill_actors", "1 for each actor whose model is loaded", ("stage",))
BUSY = Counter("promptmill_busy_seconds", "seconds in which an actor's model worked", ("stage",))
STAGE_SECONDS = Histogram("promptmill_stage_seconds", "seconds of one shard in one stage", ("stage",))
COMMIT_SECONDS = Histogram("promptmill_commit_seconds", "seconds from a shard's finished images to its commit record")

# Told by whoever speaks to the store, the driver too.
STORAGE_REQUESTS = Counter("promptmill_storage_requests", "requests to stores, repeats not counted")
STORAGE_RETRIES = Counter("promptmill_storage_retries", "requests tried again, by what went wrong", ("cause",))
STORAGE_FAILURES = Counter("promptmill_storage_failures", "requests that were given up", ("verb",))
STORAGE_WRITTEN = Counter("promptmill_storage_written_bytes", "bytes put into the store, repeats not counted")

ALL: tuple[Instrument, ...] = tuple(found for found in list(globals().values()) if isinstance(found, Instrument))


def start(run: str) -> None:
    """Records from now on in this process, which Ray must be connected to; ``run`` is the label of all that follows."""
    global _run
    with _lock:
        if run != _run:
            _made.clear()
        _run = run


def stop() -> None:
    """Records nothing any more: the connection to Ray ends."""
    global _run
    with _lock:
        _run = None
        _made.clear()


def recording() -> bool:
    """Whether this process records."""
    return _run is not None
