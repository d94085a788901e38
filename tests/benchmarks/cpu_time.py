"""CPU time of a whole tree of processes: where others crowd the cores, the clock on the wall tells of them."""

from __future__ import annotations

import bisect
import contextlib
import threading
import time

import psutil


def tree_seconds(pid: int | None = None) -> float:
    """CPU seconds of a process, its living descendants, and those of their children that have ended."""
    root, total = psutil.Process(pid), 0.0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            spent = process.cpu_times()
            total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


class TreeClock:
    """Samples `tree_seconds` of this process while it is entered; `between` tells what was spent from when to when.

    Args:
        period: seconds between two samples.
        alone: leave the descendants out.
    """

    def __init__(self, period: float = 0.25, *, alone: bool = False) -> None:
        self._look = time.process_time if alone else tree_seconds
        self._period, self._samples = period, [(time.time(), self._look())]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(self._period):
            # Never less than before: a process that ends between two looks takes its time along for a moment.
            self._samples.append((time.time(), max(self._look(), self._samples[-1][1])))

    def __enter__(self) -> TreeClock:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, begin: float, end: float) -> float:
        """CPU seconds between two times of the wall's clock (`time.time`)."""
        times = [when for when, _ in self._samples]
        places = [min(bisect.bisect_left(times, when), len(times) - 1) for when in (begin, end)]
        return max(self._samples[places[1]][1] - self._samples[places[0]][1], 1e-9)
