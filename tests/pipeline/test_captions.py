"""Captions name the thing, its colour where it has to be named, and read as English or Chinese."""

import random
import re
from dataclasses import replace

import pytest

from pipeline import caption_words as en
from pipeline import caption_words_zh as zh
from pipeline.caption_grammar import measure, with_article
from pipeline.captions import COLOURS, Words, caption, caption_in, captions_in
from pipeline.emoji_labels import chinese_phrase, clean_label, clean_tags

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


def test_recoloured_picture_is_not_called_by_keywords_of_another_colour() -> None:
    words = replace(APPLE, tags={"en": ["red fruit", "food"], "zh": ["红色水果"]}, colour="blue", must=True)
    assert not any("red fruit" in text.lower() or "红色水果" in text for text in many(words, 400))


def test_own_colour_is_named_now_and_then() -> None:
    banana = replace(UNTAGGED, colour="yellow")
    share = sum("yellow" in text or "黄" in text for text in many(banana)) / 400
    assert 0.1 < share < 0.45


def test_picture_without_a_colour_is_given_none() -> None:
    texts = many(UNTAGGED)
    settings = [*en.WHERE, *(place[1:] for place in zh.WHERE)]
    for setting in sorted(settings, key=len, reverse=True):  # a carpet may be red, the owl on it is not
        texts = [text.replace(setting, "") for text in texts]
    chinese_names = "|".join(f"{colour.zh}色" for colour in COLOURS.values())
    named = re.compile(rf"\b(?:red|orange|yellow|purple|pink)\b|{chinese_names}")
    assert not [text for text in texts if named.search(text)]


def test_the_colour_of_a_place_is_no_colour_of_the_thing_and_chinese_says_the_place_first() -> None:
    texts = many(UNTAGGED, 2000)
    assert any(re.match("[白灰红绿黄蓝紫棕粉黑金橙]色的?.{1,3}[上前里中边下].*猫头鹰", text) for text in texts)
    assert any("a red carpet" in text for text in texts)
    assert not any("白色背景" in text or "white background" in text for text in texts)


def test_article_fits_the_thing() -> None:
    texts = [text for text in many(UNTAGGED) if not chinese(text)]
    assert any(text.startswith("an owl") or " an owl" in text for text in texts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("grapes", "grapes"),
        ("cactus", "a cactus"),
        ("women with bunny ears", "women with bunny ears"),
        ("woman with headscarf", "a woman with headscarf"),
        ("Santa Claus", "Santa Claus"),
        ("flag of Japan", "the flag of Japan"),
        ("bread", "bread"),
        ("woman running", "a woman running"),
        ("OK button", "an OK button"),
        ("FREE button", "a FREE button"),
        ("A button (blood type)", "an A button (blood type)"),
        ("two hearts", "two hearts"),
    ],
)
def test_article_fits_plurals_and_names(words: str, said: str) -> None:
    assert with_article(words) == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("猫", "只"),
        ("红心", "颗"),
        ("女消防员", "位"),
        ("日本国旗", "面"),
        ("热带鱼", "条"),
        ("担心", "个"),
        ("汽车", "辆"),
    ],
)
def test_measure_word_fits_the_thing(words: str, said: str) -> None:
    assert measure(words) == said


def test_english_and_chinese_have_the_same_breadth() -> None:
    """Many wordings, and as many long sentences with settings and moods."""
    for lang in ("en", "zh"):
        rng = random.Random(0)
        texts = [caption_in(lang, UNTAGGED, rng) for _ in range(1000)]
        long = sum(len(text) > (45 if lang == "en" else 15) for text in texts) / len(texts)
        assert len(set(texts)) > 500, lang
        assert 0.25 < long < 0.7, (lang, long)


def test_wording_of_the_unseen_test_is_in_no_caption() -> None:
    texts = many(APPLE, 4000) + many(UNTAGGED, 4000)
    assert not any(re.search(r"white background|白色背景|可爱|\bcute\b", text) for text in texts)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_captions_of_a_picture_are_distinct_and_begin_with_the_plain_label(lang: str) -> None:
    texts = captions_in(lang, APPLE, 24, random.Random(1))
    assert texts[0] == APPLE.labels[lang]
    assert len(texts) == len(set(texts)) == 24
    green = captions_in(lang, replace(APPLE, colour="green", must=True), 24, random.Random(1))
    assert green[0] == {"en": "green apple", "zh": "绿色苹果"}[lang]


def test_forbidden_captions_are_drawn_again() -> None:
    texts = captions_in("en", APPLE, 24, random.Random(1), lambda text: "photo" not in text.lower())
    assert len(texts) == 24
    assert not any("photo" in text.lower() for text in texts)


def test_language_without_templates_has_label_and_keywords_and_no_recoloured_captions() -> None:
    words = Words({"en": "cat", "ja": "ネコ"}, {"en": [], "ja": ["動物", "ペット"]}, "blue", must=False)
    assert "ネコ" in captions_in("ja", words, 24, random.Random(0))[0]
    assert captions_in("ja", replace(words, must=True), 24, random.Random(0)) == []


def test_chinese_name_loses_a_colour_only_where_the_english_one_has_it() -> None:
    cucumber = Words({"en": "cucumber", "zh": "黄瓜"}, {"en": [], "zh": []}, "purple", must=True)
    assert captions_in("zh", cucumber, 1, random.Random(0)) == ["紫色黄瓜"]


@pytest.mark.parametrize(
    ("label", "lang", "clean"),
    [
        ("flag: Japan", "en", "flag of Japan"),
        ("flag: Bahamas", "en", "flag of the Bahamas"),
        ("旗: 日本", "zh", "日本国旗"),
        ("旗: 库克群岛", "zh", "库克群岛旗"),
        ("red heart", "en", "red heart"),
        ("猫", "zh", "猫"),
        ("keycap: 1", "en", "keycap 1"),
        ("man: curly hair", "en", "man with curly hair"),
        ("woman: bald", "en", "bald woman"),
        ("family: man, woman, boy, boy", "en", "family of a man, a woman and two boys"),
        ("家庭: 女人女人男孩", "zh", "两个女人和男孩的家庭"),
        ("woman’s boot", "en", "woman's boot"),
        ("旗: 日本", "ja", "旗 日本"),
    ],
)
def test_label_is_said_as_a_person_would(label: str, lang: str, clean: str) -> None:
    assert clean_label(label, lang) == clean


@pytest.mark.parametrize(
    ("label", "english", "said"),
    [
        ("哭", "crying face", "哭的脸"),
        ("猫脸", "cat face", "猫脸"),
        ("女生举重", "woman lifting weights", "举重的女生"),
        ("皱眉男", "man frowning", "皱眉的男人"),
        ("火箭", "rocket", "火箭"),
    ],
)
def test_chinese_verbs_become_things(label: str, english: str, said: str) -> None:
    assert chinese_phrase(label, english) == said


def test_keywords_without_slang_codes_and_colours() -> None:
    assert clean_tags(["JP", "af", "143", "xoxo", "heart", "red", "lol"], "en") == ["heart"]
    assert clean_tags(["红色", "心", "OK手势", "100"], "zh") == ["心"]
