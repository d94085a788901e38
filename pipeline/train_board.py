"""How far a training run is: an actor that the first worker tells and the driver asks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actors.errors import PromptmillError

_LINE_EVERY = 10.0


class _Standing:
    """Lives on the driver's node with no resources of its own."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}
        self._error: PromptmillError | None = None

    def tell(self, told: dict[str, Any]) -> None:
        """The newest standing."""
        self._last = told

    def stop(self, error: PromptmillError) -> None:
        """Why training stopped; the first reason stays."""
        self._error = self._error or error

    def stopped(self) -> PromptmillError | None:
        """Why training stopped."""
        return self._error

    def ask(self) -> dict[str, Any]:
        """The newest standing, empty before the first step."""
        return self._last


class TrainBoard:
    """A handle that workers and driver share; telling it something never blocks."""

    def __init__(self) -> None:
        self._actor: Any = ray.remote(num_cpus=0, max_restarts=-1)(_Standing).remote()

    def tell(self, phase: str, step: int, steps: int, values: dict[str, float], left: float) -> None:
        """Tells how many of a phase's steps are done, and how many seconds the others will take."""
        self._actor.tell.remote({"phase": phase, "step": step, "steps": steps, "values": values, "left": left})

    def stop(self, error: PromptmillError) -> None:
        """Tells why training stops for good; returns when it is known."""
        ray.get(self._actor.stop.remote(error))

    def stopped(self) -> PromptmillError | None:
        """Why training stopped for good, or None."""
        found: PromptmillError | None = ray.get(self._actor.stopped.remote())
        return found

    @contextlib.contextmanager
    def shown(self, *, quiet: bool) -> Iterator[None]:
        """Shows the standing while the block runs: a bar on a terminal, a plain line now and then in a job's log."""
        if quiet:
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=self._show, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _show(self, over: threading.Event) -> None:
        console = Console(stderr=True)
        if console.is_terminal:
            with Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(), console=console,
            ) as bar:  # fmt: skip
                task = bar.add_task("starting", total=None, note="")
                while not over.wait(0.5):
                    told = self._ask()
                    if told:
                        bar.update(task, description=told["phase"], total=told["steps"], completed=told["step"],
                                   note=_note(told))  # fmt: skip
            return
        said, begun = None, time.monotonic()
        while not over.wait(_LINE_EVERY):
            told = self._ask()
            if told and (told["phase"], told["step"]) != said:
                said = (told["phase"], told["step"])
                console.print(
                    f"promptmill: {told['phase']} {told['step']}/{told['steps']}, {_note(told)}, "
                    f"{time.monotonic() - begun:.0f} s, {_clock(told['left'])} left in this phase",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )

    def _ask(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = ray.get(self._actor.ask.remote(), timeout=5)
        except (ray.exceptions.RayError, TimeoutError):
            return {}
        return found


def _clock(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _note(told: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in told["values"].items())
