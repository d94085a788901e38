"""The embedded training set: Noto emoji pictures with names and tags in English and Chinese, some recoloured.

Pictures: npm ``emoji-datasource-google`` (Noto emoji, Apache-2.0), one for each emoji; its skin-tone variants are left
out. Words: npm ``emojibase-data`` (CLDR short names and keywords, MIT), matched by code point. Pictures of one dominant
hue are also shown in the other colours of a small palette, so that colour words are learned apart from things.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from actors.errors import UserError
from pipeline.captions import COLOURS, clean_label
from pipeline.columns import IMAGE

SCHEMA = pa.schema(
    [
        pa.field("image", IMAGE),
        pa.field("hexcode", pa.string()),
        pa.field("group", pa.string()),
        pa.field("label_en", pa.string()),
        pa.field("label_zh", pa.string()),
        pa.field("tags_en", pa.list_(pa.string())),
        pa.field("tags_zh", pa.list_(pa.string())),
        pa.field("colour", pa.string()),
        pa.field("recoloured", pa.bool_()),
    ]
)
_LANGUAGES = ("en", "zh")
# Recoloured flags would be other flags, and recoloured people no people.
_KEEP_COLOURS = {"flags", "people-body"}
_COMPONENTS = "component"


@dataclass(frozen=True)
class Emoji:
    """One emoji: PNG bytes, and its words by language."""

    hexcode: str
    group: str
    png: bytes
    labels: dict[str, str]
    tags: dict[str, list[str]]


def read_packages(pictures: Path, words: Path) -> list[Emoji]:
    """Reads the two npm packages, each a ``.tgz`` or an unpacked directory, and matches them by code point.

    Raises:
        UserError: a package lacks its files.
    """
    picture_files, word_files = _Package(pictures), _Package(words)
    groups = {g["order"]: g["key"] for g in json.loads(word_files.read("en/messages.json"))["groups"]}
    known = {lang: _by_code(json.loads(word_files.read(f"{lang}/data.json"))) for lang in _LANGUAGES}
    found = []
    for entry in json.loads(picture_files.read("emoji.json")):
        code = _code(entry["unified"])
        if not entry.get("has_img_google") or any(code not in known[lang] for lang in _LANGUAGES):
            continue
        group = groups.get(known["en"][code].get("group"), _COMPONENTS)
        if group == _COMPONENTS:
            continue
        found.append(
            Emoji(
                code,
                group,
                picture_files.read(f"img/google/64/{entry['image']}"),
                {lang: clean_label(known[lang][code]["label"], lang) for lang in _LANGUAGES},
                {lang: [str(tag) for tag in known[lang][code].get("tags", [])] for lang in _LANGUAGES},
            )
        )
    if not found:
        raise UserError(f"no picture of '{pictures}' has words in '{words}'; give the two npm packages, in this order")
    return found


def training_rows(emoji: list[Emoji]) -> Iterator[dict[str, Any]]:
    """Rows of `SCHEMA`: each picture on white, then its recoloured forms."""
    for entry in emoji:
        pixels = _on_white(entry.png)
        hue = dominant_hue(pixels)
        own = None if hue is None else min(COLOURS, key=lambda name: _distance(COLOURS[name].hue, hue))
        yield _row(entry, pixels, own, recoloured=False)
        if hue is None or entry.group in _KEEP_COLOURS:
            continue
        for name, colour in COLOURS.items():
            if _distance(colour.hue, hue) >= 0.06:
                yield _row(entry, shift_hue(pixels, colour.hue - hue), name, recoloured=True)


def dominant_hue(pixels: NDArray[np.uint8]) -> float | None:
    """The hue (0..1) that most of a picture's coloured pixels share; None where it has little colour or many.

    The mean direction of the hues of saturated pixels; its length says how far they agree (circular statistics).
    """
    hsv = _hsv(pixels).astype(np.float32) / 255
    coloured = (hsv[..., 1] > 0.35) & (hsv[..., 2] > 0.3)
    if coloured.mean() < 0.08:
        return None
    mean = np.exp(2j * np.pi * hsv[..., 0][coloured]).mean()
    return None if abs(mean) < 0.75 else float(np.angle(mean) / (2 * np.pi) % 1)


def shift_hue(pixels: NDArray[np.uint8], by: float) -> NDArray[np.uint8]:
    """Turns the hue of the saturated pixels by a part of the circle; greys and outlines stay."""
    hsv = _hsv(pixels).copy()
    coloured = (hsv[..., 1] > 89) & (hsv[..., 2] > 76)
    hue = hsv[..., 0].astype(np.int32)
    hsv[..., 0] = (np.where(coloured, hue + round(by * 255), hue) % 256).astype(np.uint8)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


class _Package:
    """Files of an npm package, packed or not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, bytes] | None = None
        if path.is_file():
            with tarfile.open(path) as tar:
                # Read once in archive order: seeking in a gzip stream would decompress it again for each file.
                self._files = {
                    member.name.partition("/")[2]: content.read()
                    for member in tar
                    if (member.name.endswith(".json") or "/img/google/64/" in member.name)
                    and (content := tar.extractfile(member)) is not None
                }
        elif not path.is_dir():
            raise UserError(f"no npm package at '{path}'; `npm pack emoji-datasource-google emojibase-data` makes them")

    def read(self, name: str) -> bytes:
        """One file's bytes; raises `UserError` where it is missing."""
        try:
            return (self._path / name).read_bytes() if self._files is None else self._files[name]
        except (KeyError, OSError) as error:
            raise UserError(f"'{self._path}' has no '{name}': is it the right npm package?") from error


def _row(entry: Emoji, pixels: NDArray[np.uint8], colour: str | None, *, recoloured: bool) -> dict[str, Any]:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    name = f"{entry.hexcode}-{colour}.png" if recoloured else f"{entry.hexcode}.png"
    return {
        "image": {"bytes": sink.getvalue(), "path": name},
        "hexcode": entry.hexcode,
        "group": entry.group,
        "label_en": entry.labels["en"],
        "label_zh": entry.labels["zh"],
        "tags_en": entry.tags["en"],
        "tags_zh": entry.tags["zh"],
        "colour": colour,
        "recoloured": recoloured,
    }


def _by_code(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {_code(entry["hexcode"]): entry for entry in entries}


def _on_white(png: bytes) -> NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    white.alpha_composite(picture)
    return np.asarray(white.convert("RGB"))


def _hsv(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).convert("HSV"))


def _distance(a: float, b: float) -> float:
    return abs((a - b + 0.5) % 1 - 0.5)


def _code(hexcode: str) -> str:
    # The two packages disagree on the emoji variation selector alone.
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")
