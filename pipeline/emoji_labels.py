"""CLDR's short names and keywords of emoji, said as a person would say them: ``flag: Japan`` is the flag of Japan."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_TERRITORY = re.compile(r"(岛|群岛|属地|领地|地区|法属.*|荷属.*|美属.*|英属.*|英格兰|苏格兰|威尔士|台湾|联合国|欧盟)$")
_THE = re.compile(
    r"^(United|Central African|Dominican|Isle|Falkland|British|Netherlands|Bahamas|Gambia|Philippines|Maldives"
    r"|Seychelles|Comoros|Caribbean|European|French Southern|U\.S\.)"
    r"|^(?!South Georgia|Heard).*(Islands|Territor(y|ies))$"
)
_MEMBERS_ZH = re.compile("男人|女人|男孩|女孩")
_KEYWORD = re.compile(r"[a-z][a-z' -]*[a-z]")
_PLURALS = {"man": "men", "woman": "women", "child": "children"}
_NUMBERS = {2: "two", 3: "three"}
# Words of names that mean nothing by themselves, chat slang, and colours, which the caption writer puts itself.
_NOISE_TEXT = """
cute
about above across after again against all also and any around ask away back behind below between both call come done
don't even ever every facing feat feels fetch for from full getting give goat going gonna got gotta half has have here
hold holding how i'm including into isn't it's just know let like limit lol make many maybe meh more much need never
next nope not nothing now off only onto other our out over own please pointing pointed raised really right left said
same say see seriously showing side since some soon stay still stop such sure take than that the their them then there
these they thing this too totally upon use used using very via want was way wearing well what whatever when where
which while who why will wish with without would yeah yep yes yet you your zero adorbs amirite atm aww ayy bae bestie
bff bffs bro brb btw cya damn dang dead duh fam fleek fml fuck fyi glbt glbtq genderqueer gtg haha heck heh hehe hella
hmm hmu idc idk idgaf ikr ily imho irl jeez geez jk jp kk laters lgbt lgbtq lgbtqia litaf lmao lmfao lmk lolz nbd ngl
nom obvs oh okay omg omw oof ooh oops perv phew pls pov preach ptfo rad rawr rip rofl roflmao sassy savage sheesh shh
shhh shush slay smh sus tbh tbt tfw tldr toodles triste ttyl tysm ugh uhh uhm vibe vibes welp whoa wow wowza wtf xoxo
yaas yas yay yikes yolo yum yummy yup exclamation2 bangbang double-handed inaccurate low high large small medium big
extra heavy red orange yellow green blue purple pink brown black white grey gray
"""
_NOISE = frozenset(_NOISE_TEXT.split())
_NOISE_ZH = re.compile(r"[A-Za-z0-9\s]|可爱|^[红橙黄绿青蓝紫粉棕褐黑白灰]色?$|^(的|不|无|上|下|左|右|大|小|前|后|中)$")


def clean_label(label: str, lang: str) -> str:
    """A CLDR short name as a person would say it; names in other languages than en and zh lose their colon alone."""
    label = label.replace("’", "'").replace("“", "" if lang == "en" else "“").replace("”", "" if lang == "en" else "”")
    kind, colon, rest = (part.strip() for part in label.partition(":"))
    if lang == "en":
        return (_english(kind, rest) if colon and rest else label).replace(" & ", " and ")
    if not (colon and rest):
        return label
    return _chinese(kind, rest) if lang == "zh" else f"{kind} {rest}"


def clean_tags(tags: Sequence[str], lang: str) -> list[str]:
    """The keywords that name something: no slang, no colours, no codes, no words that are nothing alone."""
    if lang == "en":
        tags = [tag.replace("’", "'").lower() for tag in tags]
        return [
            tag
            for tag in tags
            if len(tag) > 2 and _KEYWORD.fullmatch(tag) and tag not in _NOISE and not tag.startswith("gb")
        ]
    if lang == "zh":
        return [tag for tag in tags if not _NOISE_ZH.search(tag)]
    return list(tags)


def chinese_phrase(label: str, english: str) -> str:
    """A Chinese name of a face or a person that is a verb or a mood, as a noun phrase: 哭 is 哭的脸."""
    words = english.split()
    if "face" in words:
        return label if re.search("[脸头面猫月阳]$|^OK", label) else f"{label}的脸"
    if match := re.fullmatch("(面向右边的)?([男女]生)(.+)", label):
        return f"{match[1] or ''}{match[3]}的{match[2]}"
    if words[0] in {"man", "woman"} and (match := re.fullmatch("(.+)([男女])", label)):
        return f"{match[1]}的{match[2]}人"
    if words[0] == "person" and not re.search("[人者员手家]$", label):
        return f"{label}的人"
    return label


def _english(kind: str, rest: str) -> str:
    if kind == "flag":
        return f"flag of the {rest}" if _THE.search(rest) else f"flag of {rest}"
    if kind == "keycap":
        return f"keycap {rest}"
    if rest == "facing right":
        return f"{kind} facing right"
    if kind in {"man", "woman", "person"}:
        return f"bald {kind}" if rest == "bald" else f"{kind} with {'a ' if rest == 'beard' else ''}{rest}"
    return f"{kind} of {_counted(rest.split(', '))}"


def _chinese(kind: str, rest: str) -> str:
    if kind == "旗":
        if rest.endswith("特别行政区"):
            return f"{rest}区旗"
        return f"{rest}旗" if _TERRITORY.search(rest) else f"{rest}国旗"
    if kind == "按键":
        return f"按键{rest}"
    if rest == "面向右边":
        return f"{rest}的{kind}"
    members = _MEMBERS_ZH.findall(rest)
    if not members:
        return f"{rest}{kind}".replace("秃顶", "光头")
    if kind == "家庭":
        listed = [f"{'两个' if n == 2 else ''}{word}" for word, n in Counter(members).items()]
        return f"{'、'.join(listed[:-1])}{'和' if listed[:-1] else ''}{listed[-1]}的家庭"
    return f"{'和'.join(members)}{kind}" if kind == "亲吻" else f"{'和'.join(members)}的{kind}"


def _counted(words: list[str]) -> str:
    """``man, boy, boy`` are a man and two boys."""
    said = [
        f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
        if number == 1
        else f"{_NUMBERS.get(number, number)} {_PLURALS.get(word, word + 's')}"
        for word, number in Counter(words).items()
    ]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)
