"""Actors on a virtual clock: each runs in a greenlet, one at a time, and hands on the baton at every step.

All that is random (who goes next, how long a step takes, what fails) comes from one generator, so one seed is one
interleaving. Nothing sleeps: waiting moves the clock.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet


class Crash(BaseException):
    """The actor's process is gone: SIGKILL, a lost node, a power cut. No request of it is sent any more."""


class Stuck(BaseException):
    """The simulation did not come to an end: somebody waits for ever."""


class Actor:
    """One simulated process. ``crash_rate`` is the chance to be killed at a step, ``freeze_rate`` to be paused long."""

    def __init__(self, name: str, crash_rate: float, freeze_rate: float) -> None:
        self.name, self.crash_rate, self.freeze_rate = name, crash_rate, freeze_rate
        self.dead = False
        self.done = False
        self.error: BaseException | None = None
        self.result: Any = None
        self.thread: greenlet | None = None


class World:
    """The clock, the actors, and the trace of what they did."""

    def __init__(self, seed: int, most_steps: int = 60_000) -> None:
        self.random = random.Random(seed)
        self.clock = 0.0
        self.trace: list[str] = []
        self.counts: dict[str, int] = {}
        self.crashes_left = 0
        self.latency = 0.2
        self._most_steps, self._steps = most_steps, 0
        self._order = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._actors: dict[greenlet, Actor] = {}
        self._hub = getcurrent()

    @property
    def actor(self) -> Actor | None:
        """Who holds the baton; None between two actors."""
        return self._actors.get(getcurrent())

    def note(self, text: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{self.clock:10.3f} {self.actor.name if self.actor else '-':<12} {text}")

    def count(self, fault: str) -> None:
        """Counts one injected fault and notes it."""
        self.counts[fault] = self.counts.get(fault, 0) + 1
        self.note(f"! {fault}")

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        """Something that happens by itself, whoever is alive then."""
        self._order += 1
        heapq.heappush(self._events, (self.clock + seconds, self._order, event))

    def start(self, actor: Actor, work: Callable[[], Any]) -> None:
        """A new process; it begins when its turn comes."""

        def run() -> None:
            try:
                actor.result = work()
            except Crash:
                actor.dead = True
            except BaseException as error:  # noqa: BLE001 - whoever waits for the actor looks at it
                actor.error = error
            actor.done = True

        actor.thread = greenlet(run, parent=self._hub)
        self._actors[actor.thread] = actor
        self.later(self.random.uniform(0, 0.1), lambda: self._resume(actor))

    def kill(self, actor: Actor) -> None:
        """Ends an actor at its next step, as SIGKILL does to a process that is not this one."""
        actor.dead = True

    def step(self, most: float | None = None) -> None:
        """A point between two steps: others may go first, and the actor may be killed or paused here.

        It takes ``most`` seconds at most; what a request takes where nothing is said.
        """
        actor = self.actor
        if actor is None:
            return  # nobody's request: the checks after a run
        if actor.dead:
            raise Crash
        self._steps += 1
        if self._steps > self._most_steps:
            raise Stuck(f"{self._steps} steps and no end")
        if self.crashes_left and self.random.random() < actor.crash_rate:
            self.crashes_left -= 1
            self.count("crash")
            actor.dead = True
            raise Crash
        pause = self.random.uniform(0, self.latency if most is None else most)
        if self.crashes_left and self.random.random() < actor.freeze_rate:
            self.crashes_left -= 1
            self.count("pause")
            pause += self.random.uniform(20, 400)
        self.sleep(pause)

    def sleep(self, seconds: float) -> None:
        """Moves the clock for the one who holds the baton."""
        actor = self.actor
        if actor is None:
            return
        self.later(seconds, lambda: self._resume(actor))
        self._hub.switch()
        if actor.dead:
            raise Crash

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Lets things happen in the order of the clock until ``until`` holds or nothing is left to happen."""
        while self._events and not until():
            when, _, event = heapq.heappop(self._events)
            self.clock = max(self.clock, when)
            event()

    def _resume(self, actor: Actor) -> None:
        if actor.thread is not None and not actor.done:
            actor.thread.switch()
        if actor.done and isinstance(actor.error, Stuck):
            raise actor.error
