"""Memory that a long run has freed goes back to the system.

A driver frees and allocates small things for as long as it runs, and what it keeps lies between them: the C library
keeps the gaps, and the process grows though it holds no more than before.
"""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Gives back what is free, in milliseconds; does nothing where the C library cannot (musl, macOS).

    glibc's ``malloc_trim``: see malloc_trim(3).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
