"""Has Ray Data stop its work in this process, for a run that breaks off.

Ray Data schedules in a thread of its own, which asks Ray's core something all the time. A process that leaves Ray under
that thread may be ended by the core at once (status 1, no exception, the run's reason never said), so the thread has to
end first. Ray Data asks its execution callbacks after each step whether they want anything; ours wants it to end.
"""

from __future__ import annotations

import threading
from typing import Any

from ray.data import DataContext

_asked = threading.Event()
"""One for the process: what breaks off is about to leave its Ray, and callbacks are classes that workers unpickle."""


class _BrokenOff(Exception):
    """Ends the scheduling thread, and the iteration over the dataset with it."""


class _Listener:
    """One of Ray Data's execution callbacks, whose base class has no public place."""

    def before_execution_starts(self, executor: Any) -> None:
        """Of no interest."""

    def on_execution_step(self, executor: Any) -> None:
        """Called in the scheduling thread after each step, some tens of times a second."""
        if _asked.is_set():
            raise _BrokenOff

    def after_execution_succeeds(self, executor: Any) -> None:
        """Of no interest."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Of no interest."""


def listen(context: DataContext) -> None:
    """Has executions of this context end when they are asked to; forgets what was asked before."""
    _asked.clear()
    listeners: list[Any] = context.custom_execution_callback_classes
    if _Listener not in listeners:
        listeners.append(_Listener)


def break_off(consumer: threading.Thread, timeout: float = 5.0) -> None:
    """Ends the executions and waits for the thread that consumes one, which sees an exception.

    Args:
        timeout: seconds; a cluster that does not answer may hold the scheduling thread for good.
    """
    _asked.set()
    consumer.join(timeout)
