"""How long a model works, told while it works: a call of minutes must not look like idleness until it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from actors.contracts import Backend, ImageJob, Pixels
from actors.own_thread import OwnThread
from pipeline import instruments

_EVERY = 5.0


class Busy:
    """Counts the seconds of one actor's model, which answers one call at a time.

    Args:
        stage: of the actor.
    """

    def __init__(self, stage: str) -> None:
        self._stage, self._since = stage, 0.0
        self._working = False
        self._lock = threading.Lock()
        if instruments.recording():
            threading.Thread(target=self._tell, name="promptmill-busy", daemon=True).start()

    @contextmanager
    def working(self) -> Iterator[None]:
        """The model works while the block runs."""
        with self._lock:
            self._since, self._working = time.monotonic(), True
        try:
            yield
        finally:
            with self._lock:
                self._count()
                self._working = False

    def _count(self) -> None:
        if self._working:
            now = time.monotonic()
            instruments.BUSY.add(now - self._since, stage=self._stage)
            self._since = now

    def _tell(self) -> None:
        while True:
            instruments.ACTORS.set(1, stage=self._stage)
            time.sleep(_EVERY)
            with self._lock:
                self._count()


class BusyBackend:
    """A backend that renders in its own thread, and whose rendering is counted (`actors.contracts.Backend`)."""

    def __init__(self, backend: Backend, busy: Busy, thread: OwnThread) -> None:
        self._backend, self._busy, self._thread = backend, busy, thread

    def check(self, job: ImageJob) -> None:
        """See the protocol."""
        self._backend.check(job)

    def render(self, jobs: Sequence[ImageJob]) -> list[Pixels]:
        """See the protocol."""
        with self._busy.working():
            return self._thread(self._backend.render, jobs)
