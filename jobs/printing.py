"""What a job prints: names and values, remarks and errors, safe for a terminal and for a log whatever data says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipeline.inert_text import printable


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Prints ``name  value`` lines, values aligned; never wraps, so that a log can be searched."""
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        print(f"{name:<{width}}{printable(text)}")


def tell(text: str, level: Literal["info", "error"] = "info") -> None:
    """Writes one line of the job's log to standard error: no control character, no credential."""
    from pipeline import logs

    logs.say(level, text)
