"""Loading what a process keeps until its end, without looking for garbage in it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Imports and models that are loaded inside are left out of Python's garbage collection, then and later.

    CPython goes through the objects that it has whenever there are a few more of them. torch and transformers make
    half a million that never become garbage: to look through them time and again, and once more as the process ends,
    is a quarter of the CPU time of their import. They are looked through once: garbage must not be kept for ever.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.freeze()
        if collected:
            gc.enable()
