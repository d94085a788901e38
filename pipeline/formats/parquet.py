"""Images in rows: Parquet in the Hugging Face ``Image`` convention, so that ``load_dataset`` shows pictures at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import IMAGE, OUTPUT_FIELDS
from pipeline.formats.base import HEADER_KEY, Json, Part, ShardFormat, ShardImages
from pipeline.parquet_encryption import ParquetEncryption, parquet_leaves
from pipeline.parquet_keys import open_parquet
from pipeline.storage import Store

# The Hub's viewer reads a row group at a time; its own writer uses 100 rows for images.
_ROW_GROUP = 100
# One Arrow array of bytes counts them with 32 bits; what is more comes as several arrays.
_OFFSET_LIMIT = 2**31 - 1
# `datasets` overlays these features on the Arrow schema: the column becomes decoded images, not structs.
_HUGGING_FACE = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})


class ParquetFormat(ShardFormat):
    """One Parquet file a shard.

    Args:
        encryption: of the files that are written; what is read says so of itself.
    """

    suffix = ".parquet"

    def __init__(self, encryption: ParquetEncryption | None = None) -> None:
        self._encryption = encryption

    def parts(self, shard: int, rows: pa.Table, images: ShardImages) -> Iterator[Part]:
        """None: the images are in the rows."""
        return iter(())

    def build(
        self, sink: pa.NativeFile, rows: pa.Table, images: ShardImages, header: Json, parts: Sequence[Json]
    ) -> None:
        """Writes row group by row group, so that one row group of images is in memory at a time."""
        position = [f.name for f in OUTPUT_FIELDS].index("image")
        schema = rows.schema.insert(position, pa.field("image", IMAGE))
        schema = schema.with_metadata({"huggingface": _HUGGING_FACE, HEADER_KEY: json.dumps(header, sort_keys=True)})
        sealed = self._encryption.properties(schema) if self._encryption else None
        with write_parquet(sink, schema, plain=["image.bytes"], sealed=sealed) as writer:
            for start in range(0, rows.num_rows, _ROW_GROUP):
                chunk = rows.slice(start, _ROW_GROUP)
                cells = _image_cells(header["shard"], start, chunk.num_rows, images)
                chunk = chunk.add_column(position, pa.field("image", IMAGE), cells)
                writer.write_table(chunk.cast(schema), row_group_size=_ROW_GROUP)

    def read_header(self, store: Store, name: str) -> dict[str, Any] | None:
        """From the footer's key-value metadata; only the footer is fetched."""
        return read_parquet_header(store, name)

    def read_schema(self, store: Store, name: str) -> pa.Schema | None:
        """From the footer."""
        return read_parquet_schema(store, name)


def _image_cells(shard: int, start: int, count: int, images: ShardImages) -> pa.Array | pa.ChunkedArray:
    data = [images.read(start + i) for i in range(count)]
    # The path gives `datasets` a file name with the right extension; ids never become paths.
    paths = [f"{shard:06d}-{start + i:06d}.{images.extension}" for i in range(count)]
    offsets = np.cumsum([0, *map(len, data)])
    if offsets[-1] > _OFFSET_LIMIT:
        return pa.array([{"bytes": cell, "path": path} for cell, path in zip(data, paths, strict=True)], IMAGE)
    # One copy of the images, where Arrow's builder grows, and copies what it has, again and again.
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(b"".join(data))]
    cells = pa.Array.from_buffers(pa.binary(), count, buffers)
    return pa.StructArray.from_arrays([cells, pa.array(paths, pa.string())], fields=list(IMAGE))


def write_parquet(
    sink: pa.NativeFile, schema: pa.Schema, plain: Sequence[str] = (), sealed: Any = None
) -> pq.ParquetWriter:
    """A Parquet writer with the project's settings.

    Args:
        plain: columns whose data is compressed already.
        sealed: encryption properties of the file; None = not encrypted.
    """
    compression = {path: ("NONE" if path in plain else "ZSTD") for path in parquet_leaves(schema)}
    return pq.ParquetWriter(
        sink,
        schema,
        compression=compression,
        use_dictionary=[path for path in compression if path not in plain],
        write_page_index=True,
        store_schema=True,
        encryption_properties=sealed,
    )


def read_parquet_header(store: Store, name: str) -> dict[str, Any] | None:
    """The promptmill header in a Parquet object's footer, or None."""
    schema = _footer(store, name)
    raw = None if schema is None else (schema.metadata or {}).get(HEADER_KEY.encode())
    return None if raw is None else dict(json.loads(raw))


def read_parquet_schema(store: Store, name: str) -> pa.Schema | None:
    """The columns of a Parquet object, or None where there is none."""
    schema = _footer(store, name)
    return None if schema is None else schema.remove_metadata()


def _footer(store: Store, name: str) -> pa.Schema | None:
    try:
        return store.parse(name, lambda stream: open_parquet(stream, store.public(name)).schema_arrow)
    except pa.ArrowInvalid:
        return None
