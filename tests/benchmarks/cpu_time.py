"""CPU time of a whole tree of processes: where others crowd the cores, the clock on the wall tells of them."""

from __future__ import annotations

import bisect
import contextlib
import threading
import time

import psutil


class ProcessTree:
    """A process and its descendants; what one that has ended had spent is kept, as far as it was seen.

    Raylets do not wait for their workers, so no parent's account has their time.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._root = psutil.Process(pid)
        self._spent: dict[tuple[int, float], float] = {}

    def seconds(self) -> float:
        """CPU seconds of all of them so far."""
        with contextlib.suppress(psutil.Error):
            for process in [self._root, *self._root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    self._spent[process.pid, process.create_time()] = times.user + times.system
        return sum(self._spent.values())


class TreeClock:
    """Looks at this process's tree while it is entered; `between` tells what was spent from when to when.

    Args:
        period: seconds between two looks.
        alone: leave the descendants out.
    """

    def __init__(self, period: float = 0.25, *, alone: bool = False) -> None:
        self._look = time.process_time if alone else ProcessTree().seconds
        self._period, self._samples = period, [(time.time(), self._look())]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(self._period):
            self._samples.append((time.time(), self._look()))

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
