"""What each process of a run is told about how it is watched, and how it begins to be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import ray

from pipeline import instruments, logs, traces
from pipeline.logs import LogSettings
from pipeline.traces import TraceSettings
from pipeline.unforeseen import without_words


@dataclass(frozen=True)
class Watching:
    """Picklable; goes to every actor and reading task.

    Args:
        run: what the run is called in metrics and lines: the beginning of its fingerprint.
        log: how lines are written.
        trace: where spans go; None = nowhere.
    """

    run: str
    log: LogSettings
    trace: TraceSettings | None

    def begin(self, stage: str) -> None:
        """Has this process watched; a second call changes nothing. ``stage``: read, expand or generate."""
        context = ray.get_runtime_context()
        actor = f"{stage}-{(context.get_actor_id() or context.get_worker_id())[:8]}"
        instruments.start(self.run)
        logs.begin(self.log, run=self.run, actor=actor)
        traces.begin(self.trace, self.run, actor)


@contextlib.contextmanager
def of_shard(shard: int) -> Iterator[None]:
    """Lines and spans of this thread are the shard's while the block runs; what nobody foresaw leaves without words."""
    with logs.of_shard(shard), traces.of_shard(shard), without_words(shard):
        yield


def run_name(fingerprint: str) -> str:
    """The short name of a run."""
    return fingerprint[:12]
