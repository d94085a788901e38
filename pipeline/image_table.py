"""An image table as an evaluation reads it: pictures with ids, the prompt they belong to, and words, if any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors.errors import UserError
from pipeline.captioned import CaptionedTable, Fragment, open_captioned
from pipeline.captioned_files import parts_of, read_part
from pipeline.evaluate_config import Images
from pipeline.prompts import open_fs
from pipeline.server_side_encryption import with_sse
from pipeline.storage_errors import public_uri
from pipeline.web_picture import RefusedError

_LONGEST = 100_000
"""Characters of a text; what a model reads of it ends long before."""
_TEXTS = ("prompt", "caption", "text", "description")
_LANGUAGE = ("description", "description_status", "prompt", "variant")


@dataclass(frozen=True)
class ImageRow:
    """One image's file. ``group`` are rows of one prompt; ``text`` is None where nothing is said of the image."""

    id: str
    group: str
    text: str | None
    image: bytes | None
    reason: str


@dataclass(frozen=True)
class ImageTable:
    """An opened table; picklable.

    Attributes:
        table: its files and fragments.
        text: column of the words, or None.
        id, group: columns, or None where rows are numbered and words group them.
        language: columns of what a language model wrote, where all are there.
    """

    table: CaptionedTable
    text: str | None
    id: str | None
    group: str | None
    language: tuple[str, ...]

    @property
    def fragments(self) -> tuple[Fragment, ...]:
        """Its pieces, in order."""
        return self.table.fragments

    def read(self, number: int, rows: list[int] | None = None) -> list[ImageRow]:
        """The rows of fragment ``number``, or some of those that count; a missing picture is None, with the reason."""
        fragment = self.fragments[number]
        kept = fragment.kept if rows is None else [fragment.kept[row] for row in rows]
        names = [name for name in (self.id, self.group, self.text) if name is not None]
        columns = self._columns(fragment, list(dict.fromkeys([self.table.image, *names])), kept)
        short = f"{fragment.uri.rpartition('/')[2]}:{fragment.part}"
        found = []
        for place, row in enumerate(kept):
            value = columns[self.table.image][place]
            text = _text(columns[self.text][place]) if self.text else None
            own = f"{short}:{row}" if self.id is None else str(columns[self.id][place])
            group = columns[self.group][place] if self.group else None
            reason, data = "", None
            try:
                data, _ = self.table.picture(value, f"row {row}", fragment.uri.rpartition("/")[0])
            except UserError as error:
                refused = isinstance(error.__cause__, RefusedError)
                reason = f"no prefix of {self.table.places.option} allows to read it" if refused else "no picture"
            found.append(ImageRow(own, str(group) if group is not None else text or own, text, data, reason))
        return found

    def ids(self, number: int) -> list[str]:
        """The ids of fragment ``number``; no picture is read."""
        fragment = self.fragments[number]
        if self.id is None:
            raise UserError(f"'{public_uri(self.table.uri)}' has no column id: paired metrics need one in both tables")
        return [str(value) for value in self._columns(fragment, [self.id], fragment.kept)[self.id]]

    def texts(self, number: int) -> list[dict[str, Any]]:
        """Descriptions, their status and prompts of fragment ``number``; empty where the table has none."""
        if not self.language:
            return []
        columns = self._columns(self.fragments[number], list(self.language), self.fragments[number].kept)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _columns(self, fragment: Fragment, names: list[str], kept: Any) -> dict[str, list[Any]]:
        fs = open_fs(self.table.uri, dict(self.table.options))
        table = read_part(fs, fragment.uri, fragment.part, names)
        missing = [name for name in names if name not in table.column_names]
        if missing:
            raise UserError(f"'{public_uri(fragment.uri)}' has no column '{missing[0]}', which other files here have")
        table = table.take(pa.array(kept, pa.int64()))
        return {name: table[name].to_pylist() for name in names}


def open_images(config: Images, what: str) -> ImageTable:
    """Opens a table and finds its columns; reads no picture.

    Args:
        config: where it is.
        what: the config's section, for messages.

    Raises:
        UserError: no such table, no row, a column is missing.
    """
    if config.uri is None:
        raise UserError(f"{what}.uri is not set: name a promptmill output or another table of images")
    options = with_sse(config.options, config.sse)
    table = open_captioned(
        config.uri, captions=[], image=config.image, split=config.split, options=options,
        image_uris=config.image_uris, max_pixels=config.max_image_pixels, section=what,
    )  # fmt: skip
    first = table.fragments[0]
    fs = open_fs(config.uri, options)
    names = set(parts_of(fs, first.uri)[first.part][1])
    text = config.text
    if text is not None and text not in names:
        raise UserError(f"{what}: '{public_uri(config.uri)}' has no column '{text}'; it has {', '.join(sorted(names))}")
    if text is None:
        named = [*_TEXTS, *sorted(name for name in names if name.startswith("caption_")), "captions"]
        text = next((name for name in named if name in names), None)
    return ImageTable(
        table,
        text,
        next((name for name in ("id", "file_name") if name in names), None),
        "prompt_id" if "prompt_id" in names else None,
        _LANGUAGE if names.issuperset(_LANGUAGE) else (),
    )


def _text(value: Any) -> str | None:
    """A caption: the first, where there are several."""
    if isinstance(value, list):
        value = next((text for text in value if text), None)
    return value[:_LONGEST] if isinstance(value, str) and value.strip() else None
