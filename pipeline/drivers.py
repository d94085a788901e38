"""Who else works on this output: each driver keeps a note under ``_run/drivers`` while it runs.

Nothing depends on these notes, for two drivers on one output are safe: they only let the second say it is not alone.
Ages are told by the store's own clock, comparing two notes' modification times, so clock skew does not matter.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from actors.errors import PromptmillError
from pipeline.storage import Store

DRIVERS = "_run/drivers"
_BEAT = 20.0
_ALIVE = 3 * _BEAT


@contextlib.contextmanager
def announced(store: Store) -> Iterator[int]:
    """Keeps this driver's note fresh while the block runs, and yields how many other drivers are alive."""
    name = f"{DRIVERS}/{uuid.uuid4().hex}.json"
    store.replace(name, b"{}")
    notes = store.list(DRIVERS)
    own = next((_seconds(note.modified) for note in notes if note.name == name), None)
    others = [note for note in notes if note.name != name]
    alive = [note for note in others if own is not None and own - _seconds(note.modified) < _ALIVE]
    for note in others:
        if note not in alive:
            store.remove(note.name)  # left by a driver that was killed
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(_BEAT):
            with contextlib.suppress(PromptmillError):
                store.replace(name, b"{}")

    thread = threading.Thread(target=beat, name="promptmill-driver-note", daemon=True)
    thread.start()
    try:
        yield len(alive)
    finally:
        stop.set()
        thread.join(timeout=5)
        with contextlib.suppress(PromptmillError):
            store.remove(name)


def _seconds(modified: Any) -> float:
    return modified.timestamp() if isinstance(modified, datetime) else float(modified or 0.0)
