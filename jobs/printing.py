"""What a job prints at its end: names and values, one a line, safe for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Prints ``name  value`` lines, values aligned; never wraps, so that a log can be searched."""
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        print(f"{name:<{width}}{printable(text)}")


def printable(text: str) -> str:
    """Text with control characters made visible: nothing from data may steer a terminal."""
    return "".join(ch if ch.isprintable() else repr(ch)[1:-1] for ch in text)
