"""Progress of counted things: a bar on a terminal, one plain line every few seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline import logs

_LINE_EVERY = 5.0


class CountProgress:
    """Shows how many things of one kind are done; use as a context manager.

    Args:
        what: the things, e.g. ``shards``.
        total: how many there are.
        done: how many were done before.
        quiet: print nothing.
        note: stands beside the count at first.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        done: int = 0,
        quiet: bool = False,
        note: str = "",
        console: Console | None = None,
    ) -> None:
        self._what, self._total, self._quiet, self._done = what, total, quiet, done
        self._next_line = time.monotonic() + _LINE_EVERY
        self._bar: Progress | None = None
        console = console or Console(stderr=True)
        if console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(), console=console,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=total, completed=done, note=note)

    def add(self, note: str) -> None:
        """Counts one; ``note`` stands beside the count."""
        self._done += 1
        self.tick(note)

    def tick(self, note: str) -> None:
        """Refreshes the bar, or prints a line where one is due."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, note=note)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY
            self.line(note)

    def line(self, note: str) -> None:
        """Prints the plain line now, where there is no bar."""
        if self._bar is None and not self._quiet:
            logs.say("info", f"{self._done}/{self._total} {self._what}, {note}")

    def __enter__(self) -> CountProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
