"""The columns of an output as the Hugging Face Hub writes them in a dataset card's ``dataset_info``.

`datasets` guesses the types of a tar from its first five samples, and cannot where the first shard is empty or a value
is null there: the card tells it. The spelling is that of ``datasets.Features``, which is no dependency of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from pipeline.columns import IMAGE


class _NoEquivalentError(Exception):
    """A type that `datasets` does not have, such as a map."""


def parquet_features(schema: pa.Schema) -> list[dict[str, Any]] | None:
    """The features of Parquet shards with ``image`` in rows; None where a column has a type that `datasets` lacks."""
    return _features(schema, _dtype)


def webdataset_features(schema: pa.Schema, extension: str) -> list[dict[str, Any]] | None:
    """The features of tar shards: the image file and the row as JSON, whose types are fewer than Arrow's."""
    row = _features(schema, _json_dtype)
    if row is None:
        return None
    return [
        {"name": extension, "dtype": "image"},
        {"name": "json", "struct": row},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]


def _features(schema: pa.Schema, dtype: Callable[[pa.DataType], str]) -> list[dict[str, Any]] | None:
    try:
        return [{"name": field.name, **_feature(field.type, dtype)} for field in schema]
    except _NoEquivalentError:
        return None


def _feature(kind: pa.DataType, dtype: Callable[[pa.DataType], str]) -> dict[str, Any]:
    if kind.equals(IMAGE):
        return {"dtype": "image"}
    if pt.is_struct(kind):
        return {"struct": [{"name": field.name, **_feature(field.type, dtype)} for field in kind]}
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        inner = _feature(kind.value_type, dtype)
        # The Hub's short form: a list of one plain type, or of a struct, names it directly.
        short = inner["dtype"] if list(inner) == ["dtype"] else inner["struct"] if list(inner) == ["struct"] else inner
        name = "large_list" if pt.is_large_list(kind) and dtype is _dtype else "list"
        length = {"length": kind.list_size} if pt.is_fixed_size_list(kind) else {}
        return {name: short, **length}
    return {"dtype": dtype(kind)}


_SAME_NAME = (
    pt.is_null, pt.is_boolean, pt.is_integer, pt.is_timestamp, pt.is_duration, pt.is_decimal128, pt.is_decimal256,
    pt.is_time, pt.is_binary, pt.is_large_binary, pt.is_string, pt.is_large_string, pt.is_fixed_size_binary,
    pt.is_string_view, pt.is_binary_view,
)  # fmt: skip
_OTHER_NAME = {pa.float16(): "float16", pa.float32(): "float32", pa.float64(): "float64"} | {
    pa.date32(): "date32",
    pa.date64(): "date64",
}


def _dtype(kind: pa.DataType) -> str:
    if pt.is_dictionary(kind):
        return _dtype(kind.value_type)
    if kind in _OTHER_NAME:
        return _OTHER_NAME[kind]
    if any(fits(kind) for fits in _SAME_NAME):
        return str(kind)
    raise _NoEquivalentError


def _json_dtype(kind: pa.DataType) -> str:
    """What `pipeline.formats.webdataset` makes of a value: JSON has numbers, text and truth values."""
    if pt.is_dictionary(kind):
        return _json_dtype(kind.value_type)
    if pt.is_boolean(kind) or pt.is_null(kind) or kind == pa.uint64():
        return str(kind)
    if pt.is_integer(kind):
        return "int64"
    if pt.is_floating(kind):
        return "float64"
    if pt.is_map(kind) or pt.is_union(kind):
        raise _NoEquivalentError
    return "string"
