"""Image files beside a ``metadata.parquet``, as Hugging Face's ``imagefolder`` reads them: one directory a shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline.formats.base import HEADER_KEY, Json, Part, ShardFormat, ShardImages
from pipeline.formats.parquet import read_parquet_header, read_parquet_schema, write_parquet
from pipeline.storage import Store


class FilesFormat(ShardFormat):
    """The data object is ``metadata.parquet``, put after the images that it names.

    An image's name holds its digest: two writers of one shard can never mix their images under one name.
    """

    suffix = "/metadata.parquet"

    def parts(self, shard: int, rows: pa.Table, images: ShardImages) -> Iterator[Part]:
        """The image files."""
        for row in range(rows.num_rows):
            data = images.read(row)
            digest = hashlib.sha256(data).hexdigest()[:12]
            yield Part(f"data/shard-{shard:06d}/{row:06d}-{digest}.{images.extension}", data)

    def build(
        self, sink: pa.NativeFile, rows: pa.Table, images: ShardImages, header: Json, parts: Sequence[Json]
    ) -> None:
        """Writes the rows with ``file_name`` first, relative to the metadata file."""
        names = pa.array([part["name"].rpartition("/")[2] for part in parts], pa.string())
        table = rows.add_column(0, pa.field("file_name", pa.string()), names)
        schema = table.schema.with_metadata({HEADER_KEY: json.dumps(header, sort_keys=True)})
        with write_parquet(sink, schema) as writer:
            # `imagefolder` takes its batch size from the first row group and fails where that has no rows.
            if rows.num_rows:
                writer.write_table(table.cast(schema))

    def read_header(self, store: Store, name: str) -> dict[str, Any] | None:
        """From the footer of ``metadata.parquet``."""
        return read_parquet_header(store, name)

    def read_schema(self, store: Store, name: str) -> pa.Schema | None:
        """From the footer of ``metadata.parquet``; has ``file_name`` in place of ``image``."""
        return read_parquet_schema(store, name)
