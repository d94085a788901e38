"""Pictures to go on from: the prompt table's columns ``image`` and ``mask`` for models that mend pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa

from actors.errors import RowError
from pipeline import columns as c
from pipeline.assemble import Given
from pipeline.storage_errors import describe, public_uri


@dataclass(frozen=True)
class PictureColumns:
    """Reads them in the actor that needs them, so that files named by URI never pass through Ray.

    Args:
        uri: of the prompt table; paths without a scheme are on its file system.
        options: fsspec options of that file system.
        masked: whether there is a column ``mask``.
    """

    uri: str
    options: dict[str, Any] = field(repr=False)
    masked: bool

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
        if value is None or isinstance(value, bytes):
            return value
        if isinstance(value, dict) and value.get("bytes") is not None:
            data: bytes = value["bytes"]
            return data
        path = value.get("path") if isinstance(value, dict) else value
        if not path:
            return None
        try:
            if "://" in path:
                fs, path = fsspec.core.url_to_fs(path, **self.options)
            else:
                fs = fsspec.core.url_to_fs(self.uri, **self.options)[0]
            data = fs.cat_file(path)
        except (OSError, ValueError, ImportError) as error:
            raise RowError("picture_unreadable", f"'{public_uri(str(path))}': {describe(error)}") from error
        return data
