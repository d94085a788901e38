"""What a job prints: names and values, remarks and errors, safe for a terminal and for a log whatever data says."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipeline.without_secrets import without_secrets


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Prints ``name  value`` lines, values aligned; never wraps, so that a log can be searched."""
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        print(f"{name:<{width}}{printable(text)}")


def tell(text: str) -> None:
    """Prints one line of the job's log to standard error: no control character, no credential."""
    print(f"promptmill: {printable(without_secrets(text))}", file=sys.stderr, flush=True)


def printable(text: str, *, lines: bool = False) -> str:
    """Text with control characters made visible: nothing from data may steer a terminal.

    Args:
        lines: newlines stay; otherwise they too are shown as what they are, so that no value forges a line of a log.
    """
    return "".join(ch if ch.isprintable() or (lines and ch == "\n") else ascii(ch)[1:-1] for ch in text)
