"""Parquet of strangers: plain values alone, and no more memory than a file of its size may ask for.

An Arrow extension type can make a value an object. Ray Data registers one whose values are *pickles*, read as soon as
somebody asks for them as Python values (``ray.data.arrow_pickled_object``): a column of such a type is refused, and
every other extension type is taken for what it is stored as. What a file says of its types is then said no further, so
that an output made of it is harmless too.

A row group whose values are repeated millions of times by reference (dictionary or run-length encoding) can be a
terabyte in a few kilobytes: its size is computed from the references before it is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from actors.errors import UserError
from pipeline.parquet_keys import open_parquet
from pipeline.storage_errors import public_uri

LARGEST = 1 << 30
"""Bytes of a row group that need no justification."""
RATIO = 100
"""A larger one may be so many times the size of what is stored of it: text that repeats itself stays below."""
_OBJECTS = ("pickle", "py_extension_type")
_NAME = b"ARROW:extension:name"
_REFERRED = {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}
_BATCH = 1 << 16


class PlainParquet:
    """An opened file. Raises, wherever it reads, `UserError` for what this module refuses, and pyarrow's errors.

    Args:
        stream: the open file.
        where: its URI, for messages.
        options: of `pyarrow.parquet.ParquetFile`.
    """

    def __init__(self, stream: Any, where: str, **options: Any) -> None:
        self._stream, self._where = stream, where
        self._file = open_parquet(stream, where, **options)
        self.metadata = self._file.metadata
        self.stored: pa.Schema = self._file.schema_arrow

    @property
    def row_groups(self) -> tuple[int, ...]:
        """Rows of each row group."""
        return tuple(self.metadata.row_group(number).num_rows for number in range(self.metadata.num_row_groups))

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a row group."""
        self._check(group, columns)
        return plain(self._file.read_row_group(group, columns=list(columns)))

    def batches(
        self,
        columns: Sequence[str] | None = None,
        *,
        rows: int = _BATCH,
        groups: Sequence[int] | None = None,
        threads: bool = True,
    ) -> Iterator[pa.Table]:
        """The same, of some row groups (all without ``groups``), at most ``rows`` at a time."""
        names = list(self.stored.names if columns is None else columns)
        for group in range(self.metadata.num_row_groups) if groups is None else groups:
            self._check(group, names)
            for batch in self._file.iter_batches(rows, row_groups=[group], columns=names, use_threads=threads):
                yield plain(pa.Table.from_batches([batch]))

    def _check(self, group: int, columns: Sequence[str]) -> None:
        for name in columns:
            if name in self.stored.names:
                refuse_objects(self.stored.field(name), self._where)
        told = self.metadata.row_group(group)
        leaves = [told.column(number) for number in range(told.num_columns)]
        leaves = [leaf for leaf in leaves if leaf.path_in_schema.partition(".")[0] in columns
                  or any(leaf.path_in_schema.startswith(f"{name}.") for name in columns)]  # fmt: skip
        stored = sum(max(leaf.total_compressed_size, 0) for leaf in leaves)
        limit = max(LARGEST, RATIO * stored)
        size = sum(max(leaf.total_uncompressed_size, 0) for leaf in leaves)
        # Of fixed width, and references: 8 bytes hold each.
        size = max(size, 8 * max((leaf.num_values for leaf in leaves), default=0))
        texts = [leaf for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and _REFERRED & set(leaf.encodings)]
        # No value is longer than all that is stored: where that rules a bomb out, nothing need be counted.
        if size <= limit and sum(leaf.num_values * leaf.total_uncompressed_size for leaf in texts) > limit:
            size = max(size, self._unpacked(group, [leaf.path_in_schema for leaf in texts], limit))
        if size > limit:
            raise UserError(
                f"'{public_uri(self._where)}' is a decompression bomb: its row group {group} has {stored:,} bytes and "
                f"would take {size:,} or more; write it anew, or take it out"
            )

    def _unpacked(self, group: int, leaves: list[str], limit: int) -> int:
        """Bytes of a row group's dictionary-encoded values; stops counting above the limit."""
        size, position = 0, self._stream.tell()
        file = open_parquet(self._stream, self._where, read_dictionary=leaves)
        for batch in file.iter_batches(_BATCH, row_groups=[group], columns=leaves, use_threads=False):
            size += sum(_bytes_of(column) for column in batch.columns)
            if size > limit:
                break
        self._stream.seek(position)
        return size


def refuse_objects(field: pa.Field, where: str) -> None:
    """Raises `UserError` for a column whose values are, or hold, pickled objects."""
    if _holds_objects(field):
        raise UserError(
            f"column '{field.name}' of '{public_uri(where)}' holds pickled Python objects, which can run code when "
            "they are read: write it as plain values, or leave it out"
        )


def plain(table: pa.Table) -> pa.Table:
    """The same values in their storage types, without metadata."""
    schema = plain_schema(table.schema)
    # Types that differ in metadata alone are equal: then nothing is copied.
    return pa.Table.from_arrays(
        [column if column.type == field.type else column.cast(field.type)
         for column, field in zip(table.columns, schema, strict=True)], schema=schema,
    )  # fmt: skip


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The same columns in their storage types, without metadata; those of pickled objects stay as they are."""
    return pa.schema([field if _holds_objects(field) else _plain_field(field) for field in schema])


def _plain_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, _plain_type(field.type), field.nullable)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        # Arrow's own are made by Arrow, whoever has registered what.
        return kind if kind.extension_name.startswith("arrow.") else _plain_type(kind.storage_type)
    if pt.is_struct(kind):
        return pa.struct([_plain_field(kind.field(number)) for number in range(kind.num_fields)])
    if pt.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if pt.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    if pt.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if pt.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field), kind.keys_sorted)
    if pt.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _plain_type(kind.value_type), kind.ordered)
    return kind


def _holds_objects(field: pa.Field) -> bool:
    # Where nobody has registered the type it is metadata alone; the next reader may have.
    named = ((field.metadata or {}).get(_NAME) or b"").decode("utf-8", "replace")
    return any(part in named for part in _OBJECTS) or _of_objects(field.type)


def _of_objects(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return any(part in kind.extension_name for part in _OBJECTS) or _of_objects(kind.storage_type)
    if pt.is_dictionary(kind):
        return _of_objects(kind.value_type)
    return any(_holds_objects(kind.field(number)) for number in range(kind.num_fields))


def _bytes_of(array: pa.Array) -> int:
    """Bytes of the values that dictionary-encoded leaves refer to."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _bytes_of(array.storage)
    if pt.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary) if _is_bytes(kind.value_type) else None
        # 8: a mere number.
        return (
            8 * len(array) if lengths is None else pc.sum(pc.take(lengths, array.indices).cast(pa.int64())).as_py() or 0
        )
    if pt.is_struct(kind):
        return sum(_bytes_of(child) for child in array.flatten())
    if pt.is_map(kind):
        return _bytes_of(array.keys) + _bytes_of(array.items)
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return _bytes_of(array.flatten())
    return int(array.nbytes)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_binary(kind) or pt.is_large_binary(kind))
