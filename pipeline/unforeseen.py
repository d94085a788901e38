"""What a stage did not foresee ends the job in a sentence without the words of the exception.

A library's message about a row may quote the row, and Ray keeps what leaves a task in its logs, its job table and the
driver's output. So such an exception goes no further than this: its class and where it was raised are enough to find
it, and its own words follow only where the run logs prompts anyway (``--log-prompts``).
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from actors.errors import BrokenEngine, JobError, PromptmillError
from pipeline import logs


@contextlib.contextmanager
def without_words(shard: int) -> Iterator[None]:
    """Has an unexpected exception of the block leave as a `JobError` that names the shard, its class and its place.

    Raises:
        JobError: for each exception that is not the project's own; those pass as they are.
    """
    try:
        yield
    except (PromptmillError, BrokenEngine):
        raise
    except Exception as error:  # noqa: BLE001 (its words must not travel, whatever it is)
        logs.words("not foreseen", words=f"{type(error).__name__}: {error}")
        told = f"shard {shard} failed with {type(error).__name__}, raised at {_place(error)}"
        # `from None`: what is chained is printed with its words, and pickled too.
        raise JobError(f"{told}; --log-prompts logs its words, which may quote a prompt") from None


def _place(error: BaseException) -> str:
    """Package, file and line of the innermost frame: no directories, which are the node's own business."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    path = Path(frame.filename)
    return f"{path.parent.name}/{path.name}:{frame.lineno}"
