"""Emoji from two npm packages: Noto pictures with names and keywords, matched by code point.

Pictures: ``emoji-datasource-google`` (Noto emoji, Apache-2.0), one for each emoji. Its skin-tone variants, half of its
pictures, are left out: the neutral picture stands for all of them. Words: ``emojibase-data`` (CLDR short names and
keywords, MIT).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import UserError
from pipeline.emoji_labels import chinese_phrase, clean_label, clean_tags

_COMPONENTS = "component"


@dataclass(frozen=True)
class Emoji:
    """One emoji: PNG bytes with alpha, and its words by language."""

    hexcode: str
    group: str
    png: bytes
    labels: dict[str, str]
    tags: dict[str, list[str]]


@dataclass(frozen=True)
class Packages:
    """What two packages hold: the emoji, and where they are from.

    ``pictures`` and ``words`` are "name version" as the packages say; ``toned`` counts the skin-tone variants that were
    left out.
    """

    emoji: list[Emoji]
    pictures: str
    words: str
    toned: int


def read_packages(pictures: Path, words: Path, languages: Sequence[str]) -> Packages:
    """Reads the two npm packages, each a ``.tgz`` or an unpacked directory.

    English is read whatever the languages are: the split and the recolouring go by English names.

    Raises:
        UserError: a package lacks its files, or a language.
    """
    picture_files, word_files = _Package(pictures), _Package(words)
    groups = {g["order"]: g["key"] for g in json.loads(word_files.read("en/messages.json"))["groups"]}
    read = list(dict.fromkeys(["en", *languages]))
    known = {lang: _by_code(json.loads(word_files.read(f"{lang}/data.json"))) for lang in read}
    found, toned = [], 0
    for entry in json.loads(picture_files.read("emoji.json")):
        code = _code(entry["unified"])
        if not entry.get("has_img_google") or any(code not in known[lang] for lang in read):
            continue
        group = groups.get(known["en"][code].get("group"), _COMPONENTS)
        if group == _COMPONENTS:
            continue
        toned += len(entry.get("skin_variations", {}))
        names = {lang: clean_label(known[lang][code]["label"], lang) for lang in read}
        tags = {lang: clean_tags([str(t) for t in known[lang][code].get("tags", [])], lang) for lang in read}
        if "zh" in names and (phrase := chinese_phrase(names["zh"], names["en"])) != names["zh"]:
            tags["zh"].append(names["zh"])
            names["zh"] = phrase
        found.append(Emoji(code, group, picture_files.read(f"img/google/64/{entry['image']}"), names, tags))
    if not found:
        raise UserError(f"no picture of '{pictures}' has words in '{words}'; give the two npm packages, in this order")
    return Packages(found, picture_files.title(), word_files.title(), toned)


class _Package:
    """Files of an npm package, packed or not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, bytes] | None = None
        if path.is_file():
            try:
                with tarfile.open(path) as tar:
                    # Read once in archive order: seeking in a gzip stream would decompress it again for each file.
                    self._files = {
                        member.name.partition("/")[2]: content.read()
                        for member in tar
                        if (member.name.endswith(".json") or "/img/google/64/" in member.name)
                        and (content := tar.extractfile(member)) is not None
                    }
            except (tarfile.TarError, EOFError, OSError) as error:
                raise UserError(f"'{path}' is no npm package ({type(error).__name__}); `npm pack` makes one") from error
        elif not path.is_dir():
            raise UserError(f"no npm package at '{path}'; `npm pack emoji-datasource-google emojibase-data` makes them")

    def read(self, name: str) -> bytes:
        """One file's bytes; raises `UserError` where it is missing."""
        try:
            return (self._path / name).read_bytes() if self._files is None else self._files[name]
        except (KeyError, OSError) as error:
            raise UserError(f"'{self._path}' has no '{name}': is it the right npm package?") from error

    def title(self) -> str:
        """Name and version, as its package.json has them."""
        about = json.loads(self.read("package.json"))
        return f"{about.get('name')} {about.get('version')}"


def _by_code(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {_code(entry["hexcode"]): entry for entry in entries}


def _code(hexcode: str) -> str:
    # The two packages disagree on the emoji variation selector alone.
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")
