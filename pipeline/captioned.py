"""Captioned image tables: pictures with the words that are true of them, read piece by piece.

Each row has an ``image`` (bytes, {bytes, path}, or a path from the table's directory; ``file_name`` in image folders)
and a ``caption`` (a string, a list of strings, or one column a language: ``caption_en``, ``caption_zh``), optional
``weight`` and ``split``. Parquet, image folders with metadata (the convention of Hugging Face's ``imagefolder``) and
WebDataset tars are read, and promptmill outputs of any format as they are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa

from actors.decode import MAX_PIXELS
from actors.errors import UserError
from pipeline.captioned_files import find_files, parts_of, read_part
from pipeline.image_uris import ImagePlaces
from pipeline.prompts import open_fs
from pipeline.retry import RetryPolicy
from pipeline.storage_errors import describe, public_uri
from pipeline.web_picture import RefusedError

_LONGEST_CAPTION = 100_000


@dataclass(frozen=True)
class Fragment:
    """A part of a file: ``kept`` are the rows of it that count, ``weights`` theirs (None: all 1)."""

    uri: str
    part: int
    kept: tuple[int, ...]
    weights: tuple[float, ...] | None

    @property
    def rows(self) -> int:
        """Rows that count."""
        return len(self.kept)


@dataclass(frozen=True)
class CaptionedRow:
    """One picture's file and its captions; ``languages`` has one entry a caption, "" where nothing says it."""

    image: bytes
    name: str
    captions: tuple[str, ...]
    languages: tuple[str, ...]


@dataclass(frozen=True)
class CaptionedTable:
    """An opened table; picklable.

    Attributes:
        uri: where it is.
        fragments: its pieces, in order.
        image: the pictures' column.
        columns: the captions' columns.
        content: SHA-256 of what the files' footers say: the table's identity.
        options: fsspec options.
        places: where pictures that it names may be read from.
        max_pixels: of a picture.
    """

    uri: str
    fragments: tuple[Fragment, ...]
    image: str
    columns: tuple[str, ...]
    content: str
    places: ImagePlaces
    options: Mapping[str, Any] = field(default_factory=dict)
    max_pixels: int = MAX_PIXELS

    @property
    def rows(self) -> int:
        """Rows that count, of all fragments."""
        return sum(fragment.rows for fragment in self.fragments)

    def read(self, fragment: Fragment, rows: Sequence[int] | None = None) -> list[CaptionedRow]:
        """Some rows of a fragment (numbered among those that count), in the order given; all without ``rows``.

        Raises:
            UserError: a row has no picture or no caption; the message names file and row.
        """
        numbers = [fragment.kept[row] for row in (range(fragment.rows) if rows is None else rows)]
        table = self._group(fragment, [self.image, *self.columns]).take(pa.array(numbers, pa.int64()))
        images = table[self.image].to_pylist()
        words = [table[column].to_pylist() for column in self.columns]
        found = []
        for place, number in enumerate(numbers):
            where = f"row {number} of part {fragment.part} of '{public_uri(fragment.uri)}'"
            captions, languages = self._captions([column[place] for column in words])
            if any(len(caption) > _LONGEST_CAPTION for caption in captions):
                raise UserError(f"{where} has a caption of more than {_LONGEST_CAPTION:,} characters; take the row out")
            if not captions:
                raise UserError(f"{where} has no caption in {', '.join(self.columns)}; fill it in or take the row out")
            data, name = self.picture(images[place], where, fragment.uri.rpartition("/")[0])
            found.append(CaptionedRow(data, name, captions, languages))
        return found

    def captions(self) -> Iterator[tuple[str, ...]]:
        """The captions of each row; the pictures are not read."""
        for fragment in self.fragments:
            table = self._group(fragment, list(self.columns)).take(pa.array(fragment.kept, pa.int64()))
            words = [table[column].to_pylist() for column in self.columns]
            for row in zip(*words, strict=True):
                yield tuple(text[:_LONGEST_CAPTION] for text in self._captions(list(row))[0])

    def _group(self, fragment: Fragment, columns: list[str]) -> pa.Table:
        return read_part(open_fs(self.uri, dict(self.options)), fragment.uri, fragment.part, columns)

    def _captions(self, values: list[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        found: dict[str, str] = {}
        for column, value in zip(self.columns, values, strict=True):
            for text in [value] if isinstance(value, str) else value or []:
                if isinstance(text, str) and text.strip():
                    found.setdefault(text.strip(), _language(column))
        return tuple(found), tuple(found.values())

    def picture(self, value: Any, where: str, directory: str) -> tuple[bytes, str]:
        """The file and name of what an image column says.

        Args:
            value: bytes, {bytes, path}, or a path.
            where: the row, for messages.
            directory: that relative paths start from.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        if isinstance(value, bytes):
            return value, where
        if isinstance(value, dict) and value.get("bytes") is not None:
            return value["bytes"], value.get("path") or where
        path = value.get("path") if isinstance(value, dict) else value
        if not path:
            raise UserError(f"{where} has no picture in column '{self.image}'; fill it in or take the row out")
        try:
            data = self.places.read(path, directory)
        except (OSError, ValueError, ImportError) as error:
            why = str(error) if isinstance(error, RefusedError) else describe(error)
            raise UserError(f"the picture '{public_uri(path)}' of {where} cannot be read: {why}") from error
        return data, path


def open_captioned(
    uri: str,
    *,
    captions: Sequence[str] | None = None,
    image: str = "image",
    split: str | None = None,
    options: Mapping[str, object] | None = None,
    image_uris: Sequence[str] = (),
    max_pixels: int = MAX_PIXELS,
    section: str = "data",
) -> CaptionedTable:
    """Opens a table: reads footers, weights and splits, no picture.

    Args:
        uri: a file (Parquet, ``metadata.jsonl`` or ``.csv``, tar), a directory of them, a glob, or a promptmill output.
        captions: columns of captions; None finds them, an empty list asks for none.
        image: column of pictures.
        split: rows whose column ``split`` says so; None takes all.
        options: fsspec options.
        image_uris: prefixes under which pictures that the table names may be read.
        max_pixels: of a picture; larger ones are not decoded.
        section: of the config that names the table, for messages.

    Raises:
        UserError: no such table, a column is missing, a weight is no weight.
    """
    fs = open_fs(uri, dict(options or {}))
    digest, fragments, columns = hashlib.sha256(), [], None
    for file in find_files(fs, uri):
        size = RetryPolicy().run(partial(fs.size, file))
        for part, (rows, names) in enumerate(parts_of(fs, file)):
            if columns is None:
                image = "file_name" if image == "image" and image not in names and "file_name" in names else image
                columns = _columns(names, captions, image, split, file)
            fragment = _fragment(fs, file, part, rows, names, split)
            digest.update(f"{file.rpartition('/')[2]} {part} {size} {fragment}".encode())
            if fragment.rows:
                fragments.append(fragment)
    if not fragments or columns is None:
        raise UserError(f"'{public_uri(uri)}' has no row" + (f" of split '{split}'" if split else ""))
    own = dict(options or {})
    places = ImagePlaces(uri, tuple(image_uris), f"{section}.image_uris", own, beside=True)
    return CaptionedTable(uri, tuple(fragments), image, columns, digest.hexdigest(), places, own, max_pixels)


def _columns(
    names: list[str], captions: Sequence[str] | None, image: str, split: str | None, file: str
) -> tuple[str, ...]:
    missing = [name for name in [image, *(captions or []), *(["split"] if split else [])] if name not in names]
    if missing:
        raise UserError(f"'{public_uri(file)}' has no column '{missing[0]}'; it has {', '.join(names)}")
    if captions is not None:
        return tuple(captions)
    several = tuple(name for name in names if name == "caption" or name.startswith("caption_"))
    if several:
        return several
    for name in ("captions", "text", "description"):
        if name in names:
            return (name,)
    raise UserError(
        f"'{public_uri(file)}' has no caption column (caption, caption_*, captions, text, description); it has "
        f"{', '.join(names)}: name yours in data.captions"
    )


def _fragment(
    fs: fsspec.AbstractFileSystem, file: str, part: int, rows: int, names: list[str], split: str | None
) -> Fragment:
    light = [name for name in ("weight", *(["split"] if split else [])) if name in names]
    if not light:
        return Fragment(file, part, tuple(range(rows)), None)
    table = read_part(fs, file, part, light)
    kept = list(range(rows))
    if split:
        kept = [row for row, value in enumerate(table["split"].to_pylist()) if value == split]
    if "weight" not in light:
        return Fragment(file, part, tuple(kept), None)
    weights = table["weight"].to_pylist()
    for row in kept:
        if weights[row] is None or not math.isfinite(weights[row]) or weights[row] < 0:
            raise UserError(
                f"row {row} of part {part} of '{public_uri(file)}' has the weight {weights[row]}; a weight is 0 or more"
            )
    kept = [row for row in kept if weights[row] > 0]
    return Fragment(file, part, tuple(kept), tuple(float(weights[row]) for row in kept))


def _language(column: str) -> str:
    _, mark, language = column.partition("_")
    return language if mark else ""
