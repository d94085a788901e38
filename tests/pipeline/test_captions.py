"""Captions name the thing, its colour where it has to be named, and read as English or Chinese."""

import random
from dataclasses import replace

import pytest

from pipeline.captions import COLOURS, Words, caption, clean_label

APPLE = Words(
    labels={"en": "red apple", "zh": "红苹果"}, tags={"en": ["fruit"], "zh": ["水果"]}, colour="red", must=False
)
UNTAGGED = Words(labels={"en": "owl", "zh": "猫头鹰"}, tags={"en": [], "zh": []}, colour=None, must=False)


def many(words: Words, count: int = 400) -> list[str]:
    rng = random.Random(0)
    return [caption(words, rng) for _ in range(count)]


def chinese(text: str) -> bool:
    return any("\u4e00" <= char <= "\u9fff" for char in text)


def test_same_random_state_same_caption() -> None:
    assert [caption(APPLE, random.Random(n)) for n in range(50)] == [
        caption(APPLE, random.Random(n)) for n in range(50)
    ]


def test_captions_are_of_many_kinds_in_both_languages() -> None:
    texts = many(UNTAGGED)
    assert len(set(texts)) > 150
    assert 0.3 < sum(map(chinese, texts)) / len(texts) < 0.5
    assert {"owl", "猫头鹰"} <= set(texts), "bare names must be among them"
    assert max(len(text.split()) for text in texts) > 12, "and sentences as a language model writes them"


def test_every_caption_names_its_thing() -> None:
    assert all("猫头鹰" in text if chinese(text) else "owl" in text.casefold() for text in many(UNTAGGED))


def test_languages_are_not_mixed() -> None:
    for text in many(APPLE):
        assert not (chinese(text) and any(char.isascii() and char.isalpha() for char in text)), text


def test_no_placeholder_is_left() -> None:
    assert not any("{" in text or "}" in text or "  " in text for text in many(APPLE) + many(UNTAGGED))


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_recoloured_picture_always_names_its_new_colour_and_never_its_old_one(colour: str) -> None:
    words = replace(APPLE, colour=colour, must=True)
    for text in many(words, 200):
        if chinese(text):
            subject = text[: text.index("果")] if "果" in text else text
            assert COLOURS[colour].zh in subject, text
            assert colour == "red" or "红" not in subject, text
        else:
            assert colour in text.lower().split(), text
            assert colour == "red" or "red" not in text.lower().split(), text


def test_own_colour_is_named_now_and_then() -> None:
    banana = replace(UNTAGGED, colour="yellow")
    share = sum("yellow" in text or "黄" in text for text in many(banana)) / 400
    assert 0.1 < share < 0.45


def test_picture_without_a_colour_is_given_none() -> None:
    words = [text.lower().replace(".", "").split() for text in many(UNTAGGED)]
    subject_colours = {"red", "orange", "yellow", "purple", "pink"}  # "blue sky" and "green grass" are settings
    assert not any(subject_colours & set(text) for text in words)


def test_article_fits_the_thing() -> None:
    texts = [text for text in many(UNTAGGED) if not chinese(text)]
    assert any(text.startswith("an owl") or " an owl" in text for text in texts)


@pytest.mark.parametrize(
    ("label", "lang", "clean"),
    [
        ("flag: Japan", "en", "flag of Japan"),
        ("旗: 日本", "zh", "日本国旗"),
        ("red heart", "en", "red heart"),
        ("猫", "zh", "猫"),
        ("keycap: 1", "en", "keycap: 1"),
    ],
)
def test_label_is_said_as_a_person_would(label: str, lang: str, clean: str) -> None:
    assert clean_label(label, lang) == clean
