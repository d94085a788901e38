"""The held-out split: 100 pictures that no training sees, chosen by rule and seed.

role_gender (45): people whose role and gender are both known from other pictures, but not together: with ``woman
firefighter`` held out, ``man firefighter`` and ``firefighter`` stay in training. One gender of a role at most, and
women and men in turn.

shape_colour (about a dozen): pictures named ``COLOUR SHAPE`` alone, two in five of the palette's colours of each shape
that comes in three or more; the same shape in other colours, and other things of that colour, stay. A recoloured copy
that would show the same shape in the same colour must not be trained on: see `HeldOut.shows`.

concept (the rest): unrelated things, from all groups in turn, named by one to three plain words, of which no other
picture's name is a part, nor the other way round.

Never held out are the names on the sample sheet (`pipeline.sample_sheet.SHEET`), and pictures that have a nearly
identical twin (`pipeline.recolour.twins`): the twin in training would give them away.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from actors.errors import UserError
from pipeline.caption_grammar import COLOURS
from pipeline.emoji import Emoji
from pipeline.sample_sheet import SHEET

TOTAL, ROLES = 100, 45
_SHAPE = re.compile(rf"({'|'.join(COLOURS)}) ([a-z]+)")
_GENDERED = re.compile(r"(woman|man) (.+)")
_PERSON = re.compile(r"\b(person|people|woman|man|women|men|boy|girl|family|couple|kiss)\b")
_OTHER = {"woman": "man", "man": "woman"}
_PLAIN = re.compile(r"[a-z]+( [a-z]+){0,2}|flag of [A-Z][a-z]+")
_DULL = frozenset(["face", "flag", "of", "button", "sign", "symbol", "with", "and", "in", "the", "on", "hand", "mark"])


@dataclass(frozen=True)
class HeldOut:
    """What is held out: kinds by hexcode, and the names that must not turn up in training captions."""

    kinds: dict[str, str] = field(default_factory=dict)
    shapes: frozenset[tuple[str, str]] = frozenset()
    names: dict[str, list[str]] = field(default_factory=dict)

    def shows(self, entry: Emoji, colour: str | None) -> bool:
        """Whether an emoji in a colour is a held-out shape in its held-out colour, by name or by keyword."""
        words = {*entry.labels["en"].split(), *entry.tags["en"]}
        return any(colour == held and shape in words for held, shape in self.shapes)

    def allows(self, lang: str) -> Callable[[str], bool]:
        """A check that a training caption in a language names nothing that was held out."""
        names = self.names.get(lang, [])
        if not names:
            return lambda text: True
        if lang == "en":
            pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b", re.IGNORECASE)
        else:
            pattern = re.compile("|".join(map(re.escape, names)))
        return lambda text: pattern.search(text) is None


def choose_held_out(emoji: Sequence[Emoji], twins: Sequence[set[int]], seed: int, total: int = TOTAL) -> HeldOut:
    """Chooses the split.

    Args:
        emoji: all pictures.
        twins: for each its nearly identical others.
        seed: decides among what the rules leave open.
        total: how many; fewer than 100 in a small collection, in which roles and shapes shrink in proportion.

    Raises:
        UserError: the rules do not find as many.
    """
    free = [entry for entry, same in zip(emoji, twins, strict=True) if not same and not _on_sheet(entry)]
    rng = random.Random(f"held out {seed}")
    by_name = {entry.labels["en"]: entry for entry in emoji}
    roles = _roles(free, by_name, rng)[: ROLES * total // TOTAL]
    shapes = _shapes(free, by_name, rng)[: total - len(roles)]
    compositional = {entry.hexcode for entry in (*roles, *shapes)}
    concepts = _concepts(
        [entry for entry in free if entry.hexcode not in compositional], emoji, total - len(compositional), rng
    )
    if len(compositional) + len(concepts) < total:
        raise UserError(
            f"only {len(compositional) + len(concepts)} pictures can be held out, {total} are wanted: are these the "
            "whole packages?"
        )
    kinds = {
        **{entry.hexcode: "role_gender" for entry in roles},
        **{entry.hexcode: "shape_colour" for entry in shapes},
        **{entry.hexcode: "concept" for entry in concepts},
    }
    # A short Chinese name may be a part of another thing's, as 梨 is of 凤梨: of concepts the English names alone.
    names = {"en": [entry.labels["en"] for entry in (*roles, *shapes, *concepts)]}
    if all("zh" in entry.labels for entry in emoji):
        names["zh"] = [entry.labels["zh"] for entry in (*roles, *shapes)]
    pairs = frozenset((match[1], match[2]) for entry in shapes if (match := _shape(entry)))
    return HeldOut(kinds, pairs, names)


def _roles(free: Sequence[Emoji], by_name: Mapping[str, Emoji], rng: random.Random) -> list[Emoji]:
    """One gender of each role that also comes in the other one and in none; women and men in turn."""
    found: dict[str, list[Emoji]] = defaultdict(list)
    for entry in free:
        match = _GENDERED.fullmatch(entry.labels["en"])
        if entry.group == "people-body" and match:
            gender, role = match.groups()
            if f"{_OTHER[gender]} {role}" in by_name and (role in by_name or f"person {role}" in by_name):
                found[role].append(entry)
    roles = sorted(role for role in found if len(found[role]) == 2)
    rng.shuffle(roles)
    return [
        next(entry for entry in found[role] if entry.labels["en"].startswith(("woman ", "man ")[turn % 2]))
        for turn, role in enumerate(roles)
    ]


def _shapes(free: Sequence[Emoji], by_name: Mapping[str, Emoji], rng: random.Random) -> list[Emoji]:
    """Two in five, rounded up, of the colours of each shape that comes in three or more."""
    colours = Counter(match[2] for name in by_name if (match := _SHAPE.fullmatch(name)))
    found = []
    for shape in sorted(shape for shape, number in colours.items() if number >= 3):
        members = [entry for entry in free if (match := _shape(entry)) and match[2] == shape]
        rng.shuffle(members)
        found.extend(members[: -(-2 * colours[shape] // 5)])
    return found


def _concepts(free: Sequence[Emoji], emoji: Sequence[Emoji], number: int, rng: random.Random) -> list[Emoji]:
    """Things of their own, group by group in turn."""
    names = Counter(entry.labels["en"] for entry in emoji)
    telling = Counter(word for name in names for word in set(name.split()) - _DULL)
    groups: dict[str, list[Emoji]] = defaultdict(list)
    for entry in free:
        name = entry.labels["en"]
        if not _PLAIN.fullmatch(name) or _PERSON.search(name) or _SHAPE.fullmatch(name) or names[name] > 1:
            continue
        own = set(name.split()) - _DULL
        if own and all(telling[word] == 1 for word in own):
            groups[entry.group].append(entry)
    for members in groups.values():
        rng.shuffle(members)
    chosen: list[Emoji] = []
    while len(chosen) < number and any(groups.values()):
        for group in sorted(groups):
            if groups[group] and len(chosen) < number:
                chosen.append(groups[group].pop())
    return chosen


def _shape(entry: Emoji) -> re.Match[str] | None:
    return _SHAPE.fullmatch(entry.labels["en"])


def _on_sheet(entry: Emoji) -> bool:
    """Whether an emoji's name has a name of the sample sheet in it."""
    label = f" {entry.labels['en'].casefold()} "
    for caption in SHEET:
        bare = caption.removeprefix("a ").casefold()
        if f" {bare} " in label or (not caption.isascii() and caption.lstrip("一只") in entry.labels.get("zh", "")):
            return True
    return False
