"""Captions in many wordings, English and Chinese, so that what a text names decides, and not how it is worded.

From a bare label to the long sentences that a language model writes; the subject comes early, settings and moods are
filler that says nothing about the picture. So are the endings of descriptions by the shipped language model in
``endings.txt`` (SmolLM2-135M with the recipe ``faithful``, for PartiPrompts): put behind other subjects they teach the
text encoder to tell what a description is about from what is said of it.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Colour:
    """A colour word: its Chinese character and its hue on the circle 0..1."""

    zh: str
    hue: float


COLOURS = {
    "red": Colour("红", 0.0),
    "orange": Colour("橙", 0.075),
    "yellow": Colour("黄", 0.15),
    "green": Colour("绿", 0.34),
    "blue": Colour("蓝", 0.59),
    "purple": Colour("紫", 0.77),
    "pink": Colour("粉", 0.92),
}

_DESCRIBED = 0.4
"""Share of the English captions that end as the language model's descriptions do."""


@dataclass(frozen=True)
class Words:
    """What a picture is called; ``colour`` is a key of `COLOURS`, and ``must`` says that captions have to name it."""

    labels: dict[str, str]
    tags: dict[str, list[str]]
    colour: str | None
    must: bool


def caption(words: Words, rng: random.Random) -> str:
    """One caption, drawn with ``rng``: 60% English, 40% Chinese."""
    lang = "en" if rng.random() < 0.6 else "zh"
    subject = _subject(words, lang, rng)
    form = rng.random()
    if lang == "en" and rng.random() < _DESCRIBED:
        return f"{_opening(subject, rng)}, {rng.choice(_endings())}"
    if lang == "zh":
        if form < 0.35:
            return subject
        if form < 0.75:
            return rng.choice(_SHORT_ZH).format(x=subject)
        return rng.choice(_MEASURE_ZH) + subject + rng.choice(_WHERE_ZH) + rng.choice(_DOES_ZH)
    if form < 0.2:
        return subject
    if form < 0.5:
        return rng.choice(_SHORT_EN).format(a=_article(subject), x=subject)
    does, where = rng.choice(_DOES_EN), rng.choice(_WHERE_EN)
    if form < 0.62:
        return f"{_article(subject)} {does} {where}"
    end = rng.choice([".", ".", f" and {rng.choice(_WHERE_EN)}."])
    return f"{rng.choice(_OPENING_EN).format(x=subject)} {does} {where}{rng.choice(_MOOD_EN)}{end}"


def clean_label(label: str, lang: str) -> str:
    """A CLDR short name as a person would say it: ``flag: Japan`` is the flag of Japan."""
    kind, colon, rest = label.partition(": ")
    if not colon:
        return label
    if kind in {"flag", "旗"}:
        return f"flag of {rest}" if lang == "en" else f"{rest}国旗"
    return label if kind == "keycap" else kind


def _subject(words: Words, lang: str, rng: random.Random) -> str:
    """Mostly the label, sometimes tags; with its colour where the picture was recoloured, and now and then anyway."""
    label, tags = words.labels[lang], words.tags[lang]
    space = " " if lang == "en" else ""
    draw = rng.random()
    if draw < 0.62 or not tags:
        subject = label
    elif draw < 0.82:
        subject = rng.choice(tags)
    elif draw < 0.92:
        subject = space.join(rng.sample(tags, min(2, len(tags))))
    else:
        subject = f"{rng.choice(tags)}{space}{label}"
    if words.colour is None or not (words.must or rng.random() < 0.25):
        return subject
    if lang == "en":
        kept = [word for word in subject.split(" ") if word not in COLOURS]
        return " ".join([words.colour, *kept]) if kept else f"{words.colour} {label}"
    for colour in COLOURS.values():
        subject = subject.replace(f"{colour.zh}色", "").replace(colour.zh, "")
    return COLOURS[words.colour].zh + rng.choice(["色的", "色的", "色", ""]) + subject


def _opening(subject: str, rng: random.Random) -> str:
    """How the shipped recipes make a description begin."""
    words = _article(subject) if rng.random() < 0.7 else subject
    if rng.random() < 0.15:
        return f"A photo of {words}"
    return words[:1].upper() + words[1:]


@functools.cache
def _endings() -> list[str]:
    return (Path(__file__).parent / "endings.txt").read_text().splitlines()


def _article(text: str) -> str:
    if text.split(" ")[0] in {"a", "an", "the"}:
        return text
    return ("an " if text[:1].lower() in "aeiou" else "a ") + text


_SHORT_EN = [
    "{a}", "{x}", "a picture of {a}", "an emoji of {a}", "{a} on a white background", "an icon of {a}", "a cute {x}",
    "a drawing of {a}", "a photo of {a}", "a small {x}", "{x} illustration", "a simple {x}", "a beautiful {x}",
    "a big {x}", "an image of {a}", "{a}, cartoon style", "a bright {x}",
]  # fmt: skip
_OPENING_EN = [
    "A {x}", "The {x}", "A single {x}", "A bright {x}", "A lovely {x}", "A small {x}", "A vibrant {x}", "A large {x}",
    "One {x}", "A close view of a {x}", "A playful {x}", "A smooth, shiny {x}",
]  # fmt: skip
_DOES_EN = [
    "sits", "stands", "rests", "is shown", "appears", "shines", "is playing", "lies", "glows softly", "is placed",
    "floats", "waits", "moves gently", "looks up", "is",
]  # fmt: skip
_WHERE_EN = [
    "on the beach", "on a wooden table", "in the garden", "under a blue sky", "in soft light", "on green grass",
    "by the sea", "near a window", "against a plain background", "in the morning sun",
    "on a sandy shore with gentle waves", "in a quiet room", "over the sea", "on a city street",
    "in a field of flowers", "with a garden behind it", "at sunset", "among tall trees", "beside a calm lake",
    "in the snow", "on a white background", "in the center of the frame",
]  # fmt: skip
_MOOD_EN = [
    "", "", ", with warm light and gentle shadows", ", surrounded by soft colors", ", its colors bright and clear",
    ", its shape clear against the sky", ", bathed in golden sunlight", ", with fine detail", ", calm and still",
    ", smooth and round", ", seen from the front", ", looking happy", ", with a soft shadow below",
]  # fmt: skip
_SHORT_ZH = [
    "{x}", "一个{x}", "一张{x}的图片", "{x}的表情", "可爱的{x}", "一只{x}", "一颗{x}", "一幅{x}的画", "白色背景上的{x}",
    "小小的{x}", "漂亮的{x}", "一棵{x}", "一朵{x}", "一条{x}", "一辆{x}", "{x}图标",
]  # fmt: skip
_MEASURE_ZH = ["一只", "一个", "", "一颗", "一棵", "一条"]
_WHERE_ZH = [
    "在沙滩上", "在海边", "在花园里", "在阳光下", "在桌子上", "在草地上", "在天空中", "在窗边", "在雪地里", "在树下",
    "在白色背景上",
]  # fmt: skip
_DOES_ZH = ["玩耍", "休息", "", "", "发光", "微笑", "站着", "躺着"]
