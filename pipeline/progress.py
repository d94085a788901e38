"""Progress of a run: a bar on a terminal, one plain line every few seconds in a job's log, nothing when quiet."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_EVERY = 5.0


class RunProgress:
    """Counts committed shards; use as a context manager.

    Args:
        done: shards that earlier runs committed.
        total: shards of the plan.
        quiet: print nothing.
    """

    def __init__(self, done: int, total: int, *, quiet: bool = False, console: Console | None = None) -> None:
        self._done, self._total, self._quiet = done, total, quiet
        self._console = console or Console(stderr=True)
        self._begun = time.monotonic()
        self._made = self._images = self._rejects = 0
        self._next_line = self._begun + _LINE_EVERY
        self._bar: Progress | None = None
        if self._console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("shards"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=total, completed=done, note="starting")

    def add(self, images: int, rejected: int) -> None:
        """Counts one committed shard."""
        self._made += 1
        self._images += images
        self._rejects += rejected
        self.tick()

    def tick(self) -> None:
        """Refreshes the bar, or prints a line where one is due."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done + self._made, note=self._note())
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY
            self._line()

    def _line(self) -> None:
        print(  # noqa: T201
            f"promptmill: {self._done + self._made}/{self._total} shards, {self._note()}", file=sys.stderr, flush=True
        )

    def _note(self) -> str:
        if not self._made:
            return f"loading models, {time.monotonic() - self._begun:.0f} s"
        seconds = time.monotonic() - self._begun
        left = self._total - self._done - self._made
        eta = left * seconds / self._made
        return f"{self._images / seconds:.2f} images/s, {self._rejects} rejects, ETA {_clock(eta)}"

    def __enter__(self) -> RunProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self._quiet and self._made:
            self._line()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
