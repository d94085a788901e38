"""Ray Data's scheduler at rest beside a training step. A module of its own: every reader actor imports it."""

from __future__ import annotations

import time
from typing import Any

from pipeline.execution_callback import ExecutionCallback


class Unhurried(ExecutionCallback):
    """Lets Ray Data's scheduler rest between two rounds (a callback of the `DataContext`).

    While blocks wait for a slow consumer, and a training step is one, the scheduler goes round without a pause: its
    thread held the GIL and half a core of the training worker (seen: steps three times as long).
    """

    def on_execution_step(self, executor: Any) -> None:
        """After each round."""
        time.sleep(0.05)
