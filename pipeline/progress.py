"""Progress of a run: committed shards, images a second, rejects, and the time that is left."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console

from pipeline.count_progress import CountProgress


class RunProgress:
    """Counts committed shards; use as a context manager.

    Args:
        done: shards that earlier runs committed.
        total: shards of the plan.
        quiet: print nothing.
    """

    def __init__(self, done: int, total: int, *, quiet: bool = False, console: Console | None = None) -> None:
        self._left = total - done
        self._begun = time.monotonic()
        self._made = self._images = self._rejects = 0
        self._shown = CountProgress("shards", total, done=done, quiet=quiet, note="starting", console=console)

    def add(self, images: int, rejected: int) -> None:
        """Counts one committed shard."""
        self._made += 1
        self._left -= 1
        self._images += images
        self._rejects += rejected
        self._shown.add(self._note())

    def tick(self) -> None:
        """Refreshes the bar, or prints a line where one is due."""
        self._shown.tick(self._note())

    def _note(self) -> str:
        seconds = time.monotonic() - self._begun
        if not self._made:
            return f"loading models, {seconds:.0f} s"
        eta = self._left * seconds / self._made
        return f"{self._images / seconds:.2f} images/s, {self._rejects} rejects, ETA {_clock(eta)}"

    def __enter__(self) -> RunProgress:
        self._shown.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.__exit__(kind, error, trace)
        if self._made:
            self._shown.line(self._note())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
