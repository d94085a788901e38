"""Captions in many wordings, English and Chinese, so that what a text names decides, and not how it is worded.

From a bare label to the long sentences that a language model writes; the subject comes early, settings and moods are
filler that says nothing about the picture. So are the endings of descriptions by the shipped language model in
``endings.txt`` (SmolLM2-135M with the recipe ``faithful``, for PartiPrompts): put behind other subjects they teach the
text encoder to tell what a description is about from what is said of it.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline import caption_words as en
from pipeline import caption_words_zh as zh
from pipeline.caption_grammar import (
    COLOUR_WORDS_ZH,
    COLOURS,
    Colour,
    is_noun,
    is_plural,
    measure,
    takes_article,
    with_article,
    without_colour,
)

__all__ = ["COLOURS", "Colour", "Words", "caption", "caption_in", "captions_in", "recoloured_label"]

_DESCRIBED = 0.4
"""Share of the captions that end as a language model's descriptions do."""
_TRIES = 20
"""Draws for each caption that is wanted; a subject with few words runs out of new ones."""


_BUSY = re.compile(r"^(?:man|woman|person|men|women|people)\b.*ing\b")
"""Subjects that do something already."""


@dataclass(frozen=True)
class Words:
    """What a picture is called, by language.

    ``colour`` is a key of `COLOUR_WORDS_ZH`; ``must`` says that captions have to name it: the picture was recoloured.
    """

    labels: dict[str, str]
    tags: dict[str, list[str]]
    colour: str | None
    must: bool


def caption(words: Words, rng: random.Random) -> str:
    """One caption, drawn with ``rng``: 60% English, 40% Chinese."""
    return caption_in("en" if rng.random() < 0.6 else "zh", words, rng)


def caption_in(lang: str, words: Words, rng: random.Random) -> str:
    """One caption in a language. English and Chinese have templates; others are labels and keywords alone."""
    subject, phrase = _subject(words, lang, rng)
    if lang == "en":
        return _english(subject, phrase, rng)
    return _chinese(subject, phrase, rng) if lang == "zh" else subject


def captions_in(
    lang: str, words: Words, count: int, rng: random.Random, allowed: Callable[[str], bool] = lambda text: True
) -> list[str]:
    """Up to ``count`` distinct captions, the plain label first (with the new colour where the picture was recoloured).

    Args:
        allowed: says no to a caption that must not be used; the label is not asked for.
    """
    if words.must and lang not in {"en", "zh"}:
        return []  # there is no colour word for it
    chosen = {recoloured_label(words, lang) if words.must else words.labels[lang]: None}
    for _ in range(count * _TRIES):
        if len(chosen) >= count:
            break
        text = caption_in(lang, words, rng)
        if allowed(text):
            chosen[text] = None
    return list(chosen)


def recoloured_label(words: Words, lang: str, joint: str = "色") -> str:
    """The label with ``words.colour`` in place of its own colour: red apple in blue is ``blue apple``, 蓝色苹果."""
    label = words.labels[lang]
    # 黄瓜 is no yellow melon: a Chinese name has a colour to lose where the English one has.
    if without_colour(words.labels["en"], "en") != words.labels["en"]:
        label = without_colour(label, lang)
    return _coloured(label, words.colour, lang, joint)


def _coloured(text: str, colour: str | None, lang: str, joint: str) -> str:
    if colour is None:
        return text
    return f"{colour} {text}" if lang == "en" else f"{COLOUR_WORDS_ZH[colour]}{joint}{text}"


def _subject(words: Words, lang: str, rng: random.Random) -> tuple[str, bool]:
    """(subject, whether it is a phrase that a sentence can speak of).

    Mostly the label, sometimes keywords; with its colour where the picture was recoloured, and now and then anyway.
    """
    named = words.colour is not None and (words.must or rng.random() < 0.25)
    joint = rng.choice(["色的", "色的", "色"])
    label = recoloured_label(words, lang, joint) if named else words.labels[lang]
    tags = words.tags[lang]
    if words.must:
        # A keyword that speaks of another colour would be a lie.
        tags = [tag for tag in tags if without_colour(tag, lang) == tag]
    draw = rng.random()
    if draw < 0.7 or not tags:
        return label, True
    tag = rng.choice(tags)
    if draw < 0.88:
        said = _coloured(tag, words.colour if named else None, lang, joint)
        return said, lang == "en" and not named and is_noun(tag)
    comma = ", " if lang == "en" else "，" if lang == "zh" else " "
    if draw < 0.94:
        said = comma.join(rng.sample(tags, min(2, len(tags))))
        return _coloured(said, words.colour if named else None, lang, joint), False
    # What the label says already is not said twice.
    return (label, True) if tag in label else (f"{label}{comma}{tag}", False)


def _english(subject: str, phrase: bool, rng: random.Random) -> str:
    if not phrase:
        return rng.choice(en.KEYWORDS).format(x=subject)
    form, a = rng.random(), with_article(subject)
    doing = rng.choice(en.DOING) if not _BUSY.search(subject) else ""
    if rng.random() < _DESCRIBED:
        words = a if rng.random() < 0.7 else subject
        opening = f"A photo of {a}" if rng.random() < 0.15 else _capital(words)
        return f"{opening}, {rng.choice(_endings())}"
    if form < 0.17:
        return subject
    if form < 0.47:
        return rng.choice(en.SHORT).format(a=a, x=subject)
    if form < 0.6:
        adjective = f"{rng.choice(en.ADJECTIVES)} {subject}"
        return with_article(adjective) if takes_article(subject) else adjective
    where = rng.choice(en.WHERE)
    if form < 0.72:
        return " ".join(f"{a} {doing} {where}".split())
    opening = rng.choice(en.OPENING)
    does = rng.choice(en.DOES)[is_plural(subject)] if opening == "{A}" else doing
    text = " ".join(f"{opening.format(a=a, A=_capital(a))} {does} {where}".split())
    return f"{text}, {rng.choice(en.MOOD)}." if rng.random() < 0.7 else f"{text}."


def _chinese(subject: str, phrase: bool, rng: random.Random) -> str:
    if not phrase:
        return rng.choice(zh.KEYWORDS).format(x=subject)
    form, m = rng.random(), "一" + measure(subject)
    if rng.random() < _DESCRIBED:
        opening = rng.choice(zh.OPENING).format(m=m, x=subject)
        middle = rng.choice(["", "", rng.choice(zh.WHERE), rng.choice(zh.WHERE) + rng.choice(zh.DOES)])
        return f"{opening}{middle}，{'，'.join(rng.sample(zh.MOOD, rng.choice([1, 1, 2])))}。"
    if form < 0.2:
        return subject
    if form < 0.55:
        return rng.choice(zh.SHORT).format(m=m, x=subject)
    if form < 0.7:
        return rng.choice([m, "", ""]) + rng.choice(zh.ADJECTIVES) + subject
    where = rng.choice(zh.WHERE)
    if form < 0.85:
        # In Chinese the place often comes first, and the colour of the place with it: the subject is what comes last.
        adjective, place = rng.choice(["", rng.choice(zh.ADJECTIVES)]), where[1:]
        return rng.choice(
            [f"{place}的{adjective}{subject}", f"{place}有{m}{adjective}{subject}", f"{place}{m}{adjective}{subject}",
             f"{place}的{m}{adjective}{subject}", f"{m}{adjective}{subject}{where}"]
        )  # fmt: skip
    return f"{rng.choice([m, m, ''])}{subject}{where}{rng.choice(zh.DOES)}" + rng.choice(["", "。"])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


@functools.cache
def _endings() -> list[str]:
    lines = (Path(__file__).parent / "endings.txt").read_text().splitlines()
    return [line for line in lines if "white background" not in line]  # see `pipeline.caption_words`
