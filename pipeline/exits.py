"""Leaving a process on purpose: an engine that is broken beyond repair must not meet the retry."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from pipeline import logs


def leave_process(stage: str, reason: BaseException | str) -> NoReturn:
    """Ends the actor's process at once, so that Ray retries its shard in a fresh one.

    An exception would reach the driver as a failed block and end the job; a dead actor is restarted, and a context
    that is lost (CUDA) cannot be mended inside its process.
    """
    told = reason if isinstance(reason, str) else type(reason).__name__
    logs.say("warning" if isinstance(reason, str) else "error", f"{stage} actor leaves: {told}")
    sys.stderr.flush()
    os._exit(70)
