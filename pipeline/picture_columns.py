"""Pictures to go on from: the prompt table's columns ``image`` and ``mask`` for models that mend pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors.decode import check_size
from actors.errors import RowError
from pipeline import columns as c
from pipeline.assemble import Given
from pipeline.image_uris import ImagePlaces
from pipeline.storage_errors import describe, public_uri
from pipeline.web_picture import RefusedError


@dataclass(frozen=True)
class PictureColumns:
    """Reads them in the actor that needs them, so that files named by URI never pass through Ray.

    Args:
        places: where pictures that the table names may be read from.
        masked: whether there is a column ``mask``.
        max_pixels: of a picture; larger ones reject their row.
    """

    places: ImagePlaces
    masked: bool
    max_pixels: int

    def read(self, block: pa.Table) -> tuple[dict[int, Given], dict[int, RowError]]:
        """Files by row of the block; errors by number of the prompt row in its shard."""
        numbers, reasons = block[c.ROW].to_pylist(), block[c.REASON].to_pylist()
        images = block["image"].to_pylist()
        masks = block["mask"].to_pylist() if self.masked else [None] * block.num_rows
        found: dict[int, Given] = {}
        errors: dict[int, RowError] = {}
        for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
            if reasons[row] is not None:
                continue
            try:
                found[row] = self._file(image), self._file(mask)
            except RowError as error:
                errors.setdefault(numbers[row], error)
        return found, errors

    def _file(self, value: Any) -> bytes | None:
        if isinstance(value, dict) and value.get("bytes") is not None:
            value = value["bytes"]
        if value is None or isinstance(value, bytes):
            return value if value is None else self._checked(value)
        path = value.get("path") if isinstance(value, dict) else value
        if not path:
            return None
        try:
            data = self.places.read(str(path), self.places.table.rpartition("/")[0])
        except RefusedError as error:
            raise RowError("picture_refused", f"'{public_uri(str(path))}': {error}") from error
        except (OSError, ValueError, ImportError) as error:
            raise RowError("picture_unreadable", f"'{public_uri(str(path))}': {describe(error)}") from error
        return self._checked(data)

    def _checked(self, data: bytes) -> bytes:
        try:
            check_size(data, self.max_pixels)
        except ValueError as error:
            raise RowError("bad_picture", f"{error} (prompts.max_image_pixels)") from error
        return data
