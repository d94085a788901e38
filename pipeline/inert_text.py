"""Text from prompts, models and configs made inert: no control character, no markup, nothing that reorders its line."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

# Bidirectional controls reorder what stands beside them. Zero-width joiners are not here: emoji are made of them.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


class Inert(str):
    """Text that is safe to stand in Markdown as it is; the card's template refuses any other."""

    __slots__ = ()


def visible(text: str, *, lines: bool = False) -> str:
    """The text with each control character, bidirectional control and lone surrogate written as ``[U+202E]``.

    Args:
        lines: newlines and tabs stay; otherwise any run of white space becomes one space.
    """
    if not lines:
        text = " ".join(text.split())
    return "".join(ch if _harmless(ch) else f"[U+{ord(ch):04X}]" for ch in text.replace("\r\n", "\n"))


def printable(text: str, *, lines: bool = False) -> str:
    """Text with control characters made visible: nothing from data may steer a terminal.

    Args:
        lines: newlines stay; otherwise they too are shown as what they are, so that no value forges a line of a log.
    """
    return "".join(ch if ch.isprintable() or (lines and ch == "\n") else ascii(ch)[1:-1] for ch in text)


def shortened(text: str, most: int) -> str:
    """The first ``most`` characters, and how many there were."""
    return text if len(text) <= most else f"{text[:most].rstrip()}… ({len(text):,} characters)"


def markdown(text: str) -> Inert:
    """One line of text with every ASCII punctuation mark escaped: CommonMark shows it as it was."""
    return Inert(_PUNCTUATION.sub(r"\\\1", visible(text)))


def code(text: str) -> Inert:
    """A code span of one line, also inside a table, where GitHub's Markdown wants ``|`` escaped."""
    shown = visible(text)
    if not shown:
        return Inert("")
    fence = "`" * (_longest_run(shown) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return Inert(f"{fence}{pad}{shown}{pad}{fence}".replace("|", r"\|"))


def block(text: str, language: str = "") -> Inert:
    """A fenced block; the fence is longer than any run of backticks in the text."""
    shown = visible(text, lines=True).strip("\n")
    fence = "`" * max(3, _longest_run(shown) + 1)
    return Inert(f"{fence}{language}\n{shown}\n{fence}")


def compact(value: Any) -> str:
    """A config value as one line of JSON; text stands without its quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _harmless(ch: str) -> bool:
    if ch in "\n\t":
        return True
    return ch not in _BIDI and unicodedata.category(ch) not in {"Cc", "Cs", "Zl", "Zp"}


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
