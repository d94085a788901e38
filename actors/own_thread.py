"""One thread for a model: it is loaded there, and answers there.

OpenMP (libgomp) keeps a team of threads for every thread that has ever begun a parallel region. Ray loads an actor in
its main thread and calls it in others; as soon as the teams together have more threads than there are CPUs, libgomp has
all of them sleep between two small operations, and a language model decodes with one and a half cores instead of two.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class OwnThread:
    """Calls functions one after the other in the same thread, whichever thread asks."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="model")

    def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``work``'s result, in the caller's context (`contextvars`); raises what it raises."""
        context = contextvars.copy_context()
        return self._pool.submit(lambda: context.run(work, *args, **kwargs)).result()
