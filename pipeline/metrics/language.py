"""What the language model wrote, as text: how much was accepted, how varied and how long it is.

distinct-n: Li et al. (2016), different n-grams over all n-grams. Words are runs of letters and digits; each CJK
character is a word of its own, as it has no spaces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]|[^\W぀-ヿ㐀-鿿豈-﫿]+")


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams over all n-grams of all texts: 0 .. 1; NaN where no text is that long."""
    grams = [tuple(words[i : i + n]) for words in map(words_of, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")
