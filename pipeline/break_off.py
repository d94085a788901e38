"""Has Ray Data stop its work in this process, for a run that breaks off.

Ray Data schedules in a thread of its own, which asks Ray's core something all the time. A process that leaves Ray under
that thread may be ended by the core at once (status 1, no exception, the run's reason never said), so the thread has to
end first. Ray Data asks its execution callbacks after each step whether they want anything; ours may want it to end.
"""

from __future__ import annotations

import threading
import time
from typing import Any
from weakref import WeakKeyDictionary

from ray.data import DataContext

from pipeline.execution_callback import ExecutionCallback


class _BrokenOff(Exception):
    """Ends the scheduling thread, and with it the iteration over the dataset."""


class _Listener(ExecutionCallback):
    """Knows whether its execution is asked to end."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def before_execution_starts(self, executor: Any) -> None:
        """Notes who consumes it."""
        _running[threading.current_thread()] = self

    def on_execution_step(self, executor: Any) -> None:
        """Ends it where that is asked."""
        if self.asked.is_set():
            raise _BrokenOff


_running: WeakKeyDictionary[threading.Thread, _Listener] = WeakKeyDictionary()
"""The newest execution that a thread consumes."""


def listen(context: DataContext) -> None:
    """Has executions of this context end when they are asked to."""
    listeners: list[Any] = context.custom_execution_callback_classes
    if _Listener not in listeners:
        listeners.append(_Listener)


def break_off(consumer: threading.Thread, timeout: float = 5.0) -> None:
    """Ends the execution that a thread consumes, and waits for the thread, which sees an exception.

    Args:
        timeout: seconds; a cluster that does not answer may hold the scheduling thread for good.
    """
    until = time.monotonic() + timeout
    while consumer.is_alive() and time.monotonic() < until:
        # Again and again: the execution may not have begun yet.
        if consumer in _running:
            _running[consumer].asked.set()
        consumer.join(0.1)
