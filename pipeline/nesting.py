"""How deeply JSON is nested, looked at before Arrow reads it: its parser calls itself, and dies of 20,000 levels."""

from __future__ import annotations

import json
from typing import Any

DEEPEST = 64
"""Levels of a line of JSON at most."""


def check_lines(data: bytes) -> None:
    """Raises `ValueError` for JSON lines of which one is nested more deeply than `DEEPEST`; names the line."""
    for number, line in enumerate(data.split(b"\n"), 1):
        # Counting is fast, and most lines have few brackets; of the others some only repeat them, or write about them.
        if line.count(b"[") + line.count(b"{") > DEEPEST and _too_deep(line):
            raise ValueError(f"line {number} is nested more than {DEEPEST} levels deep")


def _too_deep(line: bytes) -> bool:
    try:
        level: list[Any] = [json.loads(line)]
    except RecursionError:
        return True
    except ValueError:
        # No JSON, or several lines of it: whether deep or not it is counted without looking at quotes.
        return line.count(b"[") + line.count(b"{") > 8 * DEEPEST
    for _ in range(DEEPEST):
        level = [child for value in level for child in _children(value)]
    return bool(level)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
