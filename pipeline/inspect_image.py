"""What one image file says of itself, and the row of an output that it was made from."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from actors.errors import UserError
from actors.marks import Marks, read_marks
from pipeline.commit import committed_shards
from pipeline.id_notes import find_image
from pipeline.read_output import OutputRow
from pipeline.storage import Store
from pipeline.verify import read_outline

_LARGEST = 256 << 20
"""Bytes: whatever is larger is no image that promptmill made."""


@dataclass(frozen=True)
class Inspected:
    """One image file. ``marks`` is None where ``fault`` says why they cannot be read."""

    data: bytes
    format: str
    width: int
    height: int
    marks: Marks | None
    fault: str | None

    @property
    def sha256(self) -> str:
        """Of the file's bytes."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def media_type(self) -> str:
        """As MIME names the format."""
        return f"image/{self.format.lower()}"


def inspect_image(uri: str) -> Inspected:
    """Reads an image file, its pixels left undecoded; raises `UserError` where there is none."""
    folder, _, name = (uri if "://" in uri else str(Path(uri).absolute())).rpartition("/")
    store = Store(folder or "/")
    size = store.size(name)
    if size is None:
        raise UserError(f"no image at '{store.public(name)}'")
    if size > _LARGEST:
        raise UserError(f"'{store.public(name)}' has {size} bytes, more than any image that promptmill makes")
    data = store.read(name) or b""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            kind, (width, height) = image.format or "", image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"'{store.public(name)}' is no readable PNG, JPEG or WebP image") from error
    try:
        return Inspected(data, kind, width, height, read_marks(data), None)
    except ValueError as error:
        return Inspected(data, kind, width, height, None, str(error))


def row_of(inspected: Inspected, store: Store) -> OutputRow | None:
    """The row of an output with the image's id; None where the image names none, or the output has none such."""
    if inspected.marks is None or not inspected.marks.image_id:
        return None
    outline = read_outline(store)
    shards = sorted(shard for shard in committed_shards(store) if shard < outline.shards)
    return find_image(store, outline.output_format, shards, inspected.marks.image_id)
