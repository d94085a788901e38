"""The captioned image table made of emoji: pictures with captions, weights and split; trainers need nothing else.

``image``, ``caption_<language>`` (lists, the plain label first), ``weight`` (how often a row is drawn in training) and
``split`` are for every trainer; the other columns say what a row is. Things of one dominant hue are also shown in the
other colours of a small palette, so that colour words are learned apart from things; these copies weigh less.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.caption_grammar import COLOUR_WORDS_ZH, COLOURS
from pipeline.captions import Words, captions_in, recoloured_label
from pipeline.columns import IMAGE
from pipeline.emoji import Emoji
from pipeline.emoji_descriptions import recolour_description
from pipeline.held_out import HeldOut
from pipeline.recolour import Picture, colour_name, dominant_hue, hue_distance, nearly, shift_hue, thumbnails

CAPTIONS = 24
"""Captions of a picture in a language that has templates."""
RECOLOURED = 0.35
"""What the recoloured copies weigh together, of all."""
TRAIN, HELD_OUT = "train", "held_out"
# Recoloured flags would be other flags, and recoloured people no people; nor does one call people yellow.
_KEEP_COLOURS = {"flags", "people-body"}
_COLOUR_WORDS = {*COLOUR_WORDS_ZH, "black", "white", "grey", "gray", "gold", "golden", "silver", "violet", "turquoise"}


def table_schema(languages: Sequence[str]) -> pa.Schema:
    """The table's columns for some languages; the English label is always there."""
    texts = [pa.field(f"caption_{lang}", pa.list_(pa.string())) for lang in languages]
    labels = [pa.field(f"label_{lang}", pa.string()) for lang in dict.fromkeys(["en", *languages])]
    return pa.schema(
        [
            pa.field("image", IMAGE),
            *texts,
            pa.field("weight", pa.float32()),
            pa.field("split", pa.string()),
            pa.field("hexcode", pa.string()),
            pa.field("group", pa.string()),
            *labels,
            pa.field("colour", pa.string()),
            pa.field("recoloured", pa.bool_()),
            pa.field("held_out_kind", pa.string()),
        ]
    )


SCHEMA = table_schema(("en", "zh"))
"""The columns of the default languages."""


def make_table(
    emoji: Sequence[Emoji],
    pictures: Sequence[Picture],
    held: HeldOut,
    descriptions: Mapping[str, str],
    languages: Sequence[str],
    seed: int,
) -> pa.Table:
    """The whole table: each picture, then its recoloured copies.

    Args:
        emoji: what the pictures are called.
        pictures: their pixels on white.
        held: the split; of what is held out there are no recoloured copies.
        descriptions: by hexcode, English; "" where there is none.
        languages: of the captions.
        seed: with the hexcode (and colour) it decides the captions.
    """
    rows = list(_rows(emoji, pictures, held, descriptions, languages, seed))
    kept = sum(not row["recoloured"] for row in rows if row["split"] == TRAIN)
    copies = sum(row["recoloured"] for row in rows)
    weight = RECOLOURED / (1 - RECOLOURED) * kept / copies if copies else 0.0
    for row in rows:
        row["weight"] = weight if row["recoloured"] else 1.0
    return pa.Table.from_pylist(rows, table_schema(languages))


def _rows(
    emoji: Sequence[Emoji],
    pictures: Sequence[Picture],
    held: HeldOut,
    descriptions: Mapping[str, str],
    languages: Sequence[str],
    seed: int,
) -> Iterator[dict[str, Any]]:
    secret = thumbnails([pixels for entry, pixels in zip(emoji, pictures, strict=True) if entry.hexcode in held.kinds])
    for entry, pixels in zip(emoji, pictures, strict=True):
        kind, described = held.kinds.get(entry.hexcode, ""), descriptions.get(entry.hexcode, "")
        own = None if entry.group in _KEEP_COLOURS else colour_name(pixels)
        if not kind and held.shows(entry, own):
            own = None  # captions must not name the colour: it is a held-out shape's
        words = Words(entry.labels, entry.tags, own, must=False)
        captions = _captions(words, entry.hexcode, described, languages, held, seed, trained=not kind)
        yield _row(entry, pixels, words, captions, kind)
        hue = dominant_hue(pixels)
        if kind or hue is None or entry.group in _KEEP_COLOURS:
            continue
        for colour, meant in COLOURS.items():
            if hue_distance(meant.hue, hue) < 0.06 or held.shows(entry, colour):
                continue
            copy = shift_hue(pixels, meant.hue - hue)
            if nearly(secret, thumbnails([copy])[0]).any():
                continue
            words = Words(entry.labels, entry.tags, colour, must=True)
            text = recolour_description(described, entry.labels["en"], recoloured_label(words, "en"), _COLOUR_WORDS)
            key = f"{entry.hexcode} {colour}"
            yield _row(entry, copy, words, _captions(words, key, text or "", languages, held, seed, trained=True), "")


def _captions(
    words: Words, key: str, described: str, languages: Sequence[str], held: HeldOut, seed: int, *, trained: bool
) -> dict[str, list[str]]:
    """Captions by language; in English the description is the second."""
    made = {}
    for lang in languages:
        rng = random.Random(f"{seed} {key} {lang}")
        allowed = held.allows(lang) if trained else (lambda text: True)
        texts = captions_in(lang, words, CAPTIONS, rng, allowed)
        if lang == "en" and described and allowed(described):
            texts = [texts[0], described, *(text for text in texts[1:] if text != described)][:CAPTIONS]
        made[lang] = texts
    return made


def _row(entry: Emoji, pixels: Picture, words: Words, captions: Mapping[str, list[str]], kind: str) -> dict[str, Any]:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    name = f"{entry.hexcode}-{words.colour}.png" if words.must else f"{entry.hexcode}.png"
    return {
        "image": {"bytes": sink.getvalue(), "path": name},
        **{f"caption_{lang}": texts for lang, texts in captions.items()},
        "split": HELD_OUT if kind else TRAIN,
        "hexcode": entry.hexcode,
        "group": entry.group,
        **{f"label_{lang}": label for lang, label in entry.labels.items()},
        "colour": words.colour,
        "recoloured": words.must,
        "held_out_kind": kind,
    }
