"""Who else works on this output: each driver keeps a note under ``_run/drivers`` while it runs.

Nothing depends on these notes, for two drivers on one output are safe: they only let the second say it is not alone.
Ages are told by the store's own clock, comparing two notes' modification times, so clock skew does not matter.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from actors.errors import PromptmillError
from pipeline.storage import Store

DRIVERS = "_run/drivers"
_BEAT = 20.0
_ALIVE = 3 * _BEAT


@dataclass(frozen=True)
class Noted:
    """This process's own note and those of others.

    Args:
        now: the store's clock when the own note was put; None where the store tells no times.
        others: the names of the other notes, each with its age in seconds by that clock (None where unknown).
    """

    now: float | None
    others: dict[str, float | None]

    def alive(self, within: float = _ALIVE) -> list[str]:
        """The notes that were fresh less than ``within`` seconds ago."""
        return [name for name, age in self.others.items() if age is None or age < within]


@contextlib.contextmanager
def announced(store: Store) -> Iterator[int]:
    """Keeps this driver's note fresh while the block runs, and yields how many other drivers are alive."""
    with noted(store) as notes:
        # Where the store tells no times nobody can be told dead, and nobody is said to be alive.
        alive = notes.alive() if notes.now is not None else []
        for name in notes.others:
            if notes.now is not None and name not in alive:
                store.remove(name)  # left by a driver that was killed
        yield len(alive)


@contextlib.contextmanager
def noted(store: Store) -> Iterator[Noted]:
    """Keeps a note of this process fresh while the block runs, and yields what the others' notes say."""
    name = f"{DRIVERS}/{uuid.uuid4().hex}.json"
    store.replace(name, b"{}")
    notes = read_notes(store, name)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(_BEAT):
            with contextlib.suppress(PromptmillError):
                store.replace(name, b"{}")

    thread = threading.Thread(target=beat, name="promptmill-driver-note", daemon=True)
    thread.start()
    try:
        yield notes
    finally:
        stop.set()
        thread.join(timeout=5)
        with contextlib.suppress(PromptmillError):
            store.remove(name)


def read_notes(store: Store, own: str) -> Noted:
    """The notes as they are now, beside the one named ``own``."""
    times = {note.name: modified_seconds(note.modified) for note in store.list(DRIVERS)}
    now = times.pop(own, None)
    return Noted(now, {name: None if now is None or at is None else now - at for name, at in times.items()})


def modified_seconds(modified: Any) -> float | None:
    """A modification time as seconds since the epoch by the store's clock; None where the store tells none."""
    if modified is None:
        return None
    return modified.timestamp() if isinstance(modified, datetime) else float(modified)
