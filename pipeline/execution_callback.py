"""Ray Data's execution callbacks, whose base class has no public place. Alone: reader actors import it."""

from __future__ import annotations

from typing import Any


class ExecutionCallback:
    """Does nothing at any of the moments that Ray Data tells of; one is made for each execution.

    Classes, not instances, go into ``DataContext.custom_execution_callback_classes``.
    """

    def before_execution_starts(self, executor: Any) -> None:
        """Called in the thread that consumes the dataset."""

    def on_execution_step(self, executor: Any) -> None:
        """Called in the scheduling thread after each round, some tens of times a second."""

    def after_execution_succeeds(self, executor: Any) -> None:
        """Called when all is done."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Called when it broke off."""
