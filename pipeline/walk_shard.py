"""A shard's rows read from its data object on disk, in order, one image in memory at a time, whatever the format.

Nothing is trusted: whatever is wrong inside is one error, `Unreadable`, with a sentence that says what.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from actors.marks import TRAINED_ALGORITHMIC_MEDIA, produce_id, read_marks
from pipeline.parquet_keys import open_parquet
from pipeline.plain_parquet import PlainParquet

_FORMATS = ("PNG", "JPEG", "WEBP")
_BATCH = 8
"""Images decoded from Parquet at once."""


class Unreadable(Exception):
    """What was read is not what a shard of promptmill holds; the text is one sentence without names from the data."""


@dataclass(frozen=True)
class WalkedRow:
    """One row: what is needed to check it. ``image`` reads the encoded file, None where images were not asked for."""

    id: str
    width: int
    height: int
    image: Callable[[], bytes] | None


def walk_rows(
    path: Path, output_format: str, shard: int, read_part: Callable[[int, str], bytes], *, images: bool
) -> Iterator[WalkedRow]:
    """The rows of a data object.

    Args:
        path: the data object as a local file.
        read_part: reads the image of row number i, whose file name is given (format ``files``).
        images: whether images are wanted.

    Raises:
        Unreadable: damaged, cut short, or laid out in another way.
    """
    with _said():
        if output_format == "webdataset":
            yield from _walk_tar(path, shard)
        elif output_format == "parquet":
            yield from _walk_parquet(path, ["id", "width", "height", *(["image"] if images else [])], None)
        else:
            yield from _walk_parquet(path, ["id", "width", "height", "file_name"], read_part if images else None)


def count_rows(path: Path) -> int:
    """Rows of a Parquet file by its footer; raises `Unreadable`."""
    with _said(), path.open("rb") as stream:
        return int(open_parquet(stream, path.name).metadata.num_rows)


def reasons_in(path: Path) -> dict[str, int]:
    """How often each reason stands in a rejects object; raises `Unreadable`."""
    found: dict[str, int] = {}
    with _said(), path.open("rb") as stream:
        for batch in PlainParquet(stream, path.name).batches(["reject_reason"]):
            for reason in batch["reject_reason"].to_pylist():
                found[reason] = found.get(reason, 0) + 1
    return found


def image_fault(data: bytes, row: WalkedRow) -> str | None:
    """Why this is not the marked image of this row, in words; None where it is.

    The size is compared before a pixel is decoded, so that a bomb is refused by its header.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.size != (row.width, row.height):
                return f"its image has {image.size[0]}x{image.size[1]} pixels, its row says {row.width}x{row.height}"
            image.load()
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise what they like on damaged files
        return f"its image does not decode ({type(error).__name__})"
    try:
        marks = read_marks(data)
    except ValueError as error:
        return f"its marks cannot be read: {error}"
    if marks.digital_source_type != TRAINED_ALGORITHMIC_MEDIA or marks.aigc.get("Label") != "1":
        return "its image lacks the marks of synthetic media"
    if marks.image_id != produce_id(row.id):
        return "the marks of its image name another image id"
    return None


@contextlib.contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except Unreadable:
        raise
    except Exception as error:
        # Arrow, tarfile and JSON share no base, and a damaged file may bring up any of theirs.
        raise Unreadable(f"it cannot be read ({type(error).__name__})") from error


def _walk_parquet(path: Path, columns: list[str], read_part: Callable[[int, str], bytes] | None) -> Iterator[WalkedRow]:
    with path.open("rb") as stream:
        file = PlainParquet(stream, path.name, pre_buffer=False)
        missing = set(columns) - set(file.stored.names)
        if missing:
            raise Unreadable(f"it has no column '{min(missing)}'")
        number = 0
        for batch in file.batches(columns, rows=_BATCH if "image" in columns else 4096):
            for values in batch.to_pylist():
                reader = _reader(values, number, read_part)
                yield WalkedRow(_text(values["id"]), values["width"], values["height"], reader)
                number += 1


def _reader(
    values: dict[str, Any], number: int, read_part: Callable[[int, str], bytes] | None
) -> Callable[[], bytes] | None:
    if "image" in values:
        data = (values["image"] or {}).get("bytes")
        if not isinstance(data, bytes):
            raise Unreadable(f"its row {number} has no image")
        return lambda: data
    if read_part is not None:
        name = _text(values["file_name"])
        return lambda: read_part(number, name)
    return None


def _walk_tar(path: Path, shard: int) -> Iterator[WalkedRow]:
    with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        tar.next()  # the header: whoever walks has read it
        row = 0
        while (picture := tar.next()) is not None:
            described = tar.next()
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member that it has seen
            key = f"{shard:06d}-{row:06d}"
            if described is None or described.name != f"{key}.json" or picture.name.rpartition(".")[0] != key:
                raise Unreadable(f"its row {row} is not a picture and its JSON")
            values = json.loads(_content(tar, described))
            yield WalkedRow(_text(values["id"]), values["width"], values["height"], partial(_content, tar, picture))
            row += 1
        # tarfile takes a file that is cut off between two members for a whole one: an archive ends with zeros.
        if stream.seek(0, io.SEEK_END) < tar.offset or not _ends_in_zeros(stream):
            raise Unreadable("its end is missing")


def _ends_in_zeros(stream: io.BufferedReader) -> bool:
    stream.seek(-2 * tarfile.BLOCKSIZE, io.SEEK_END)
    return not any(stream.read())


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with _said():
        content = tar.extractfile(member)
        data = b"" if content is None else content.read()
        if len(data) != member.size:
            raise Unreadable("its end is missing")
        return data


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Unreadable("an id or file name in it is no text")
    return value
