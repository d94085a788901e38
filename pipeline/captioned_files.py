"""The files of a captioned image table, each cut into parts: Parquet row groups, lines of metadata files, tars.

Whatever the file, a part is read as an Arrow table with one row a picture. A tar (WebDataset) has a row for each key:
its picture under ``image``, the fields of its ``.json`` under their own names, the text of ``.txt`` under ``caption``.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from actors.errors import JobError, PromptmillError, UserError
from pipeline.nesting import check_lines
from pipeline.patient_file import open_patiently
from pipeline.plain_parquet import PlainParquet
from pipeline.retry import RetryPolicy
from pipeline.storage_errors import describe, is_transient, public_uri

_LINES_A_PART = 4096
_PICTURES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff")
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_MOST_BYTES = {True: 256 << 20, False: 16 << 20}
"""Of a member of a tar: of a picture, and of its words."""


def find_files(fs: fsspec.AbstractFileSystem, uri: str) -> list[str]:
    """The files of a table: one file, a glob, a promptmill output, an image folder, or a directory of Parquet or tars.

    Raises:
        UserError: nothing there.
    """
    try:
        found = RetryPolicy().run(lambda: _found(fs, fs._strip_protocol(uri)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"'{public_uri(uri)}' cannot be looked up: {describe(error)}") from error
    if not found:
        raise UserError(f"there is no captioned image table at '{public_uri(uri)}'")
    return sorted(found)


def parts_of(fs: fsspec.AbstractFileSystem, file: str) -> list[tuple[int, list[str]]]:
    """For each part of a file its number of rows and the names of its columns.

    Raises:
        UserError: the file cannot be read.
        JobError: its store does not answer, however often it is asked.
    """
    with _reading(file):
        if file.endswith(".tar"):
            rows = [names for names, _ in _walk(fs, file, pictures=False)]
            return [(len(rows), sorted({name for names in rows for name in names}))]
        if file.endswith((".jsonl", ".csv")):
            table = _lines(fs, file)
            starts = range(0, table.num_rows, _LINES_A_PART)
            return [(min(_LINES_A_PART, table.num_rows - start), table.column_names) for start in starts]
        with open_patiently(fs, file) as stream:
            parquet = PlainParquet(stream, file)
            return [(rows, parquet.stored.names) for rows in parquet.row_groups]


def read_part(fs: fsspec.AbstractFileSystem, file: str, part: int, columns: Sequence[str]) -> pa.Table:
    """Some columns of a part; a column that a row of a tar does not have is null there.

    Raises:
        UserError: the file cannot be read.
        JobError: its store does not answer, however often it is asked.
    """
    with _reading(file):
        if file.endswith(".tar"):
            rows = [row for _, row in _walk(fs, file, pictures="image" in columns)]
            return pa.table({name: [row.get(name) for row in rows] for name in columns})
        if file.endswith((".jsonl", ".csv")):
            return _lines(fs, file).slice(part * _LINES_A_PART, _LINES_A_PART).select(list(columns))
        with open_patiently(fs, file) as stream:
            return PlainParquet(stream, file).read(part, columns)


class _reading:  # noqa: N801 (used as a function)
    """Turns what goes wrong in reading a file into one sentence."""

    def __init__(self, file: str) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, PromptmillError):
            return
        told = f"'{public_uri(self._file)}' cannot be read"
        if is_transient(error):
            raise JobError(f"{told} now: {describe(error)}; run again") from error
        # Readers raise what they trip over in a hostile file: TypeError, OverflowError and RecursionError among it.
        raise UserError(f"{told} as a table of pictures: {describe(error)}") from error


def _found(fs: fsspec.AbstractFileSystem, path: str) -> list[str]:
    if any(mark in path for mark in "*?["):
        return list(fs.glob(path))
    if fs.isdir(f"{path}/_run/shards"):
        return list(_committed(fs, path))
    if fs.isdir(path):
        kinds = (_METADATA, ("*.parquet",), ("*.tar",))
        return next(filter(None, (_under(fs, path, names) for names in kinds)), [])
    return [path] if fs.exists(path) else []


def _committed(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[str]:
    """The data objects of an output's commit records: what has no record does not exist."""
    for record in sorted(fs.glob(f"{path}/_run/shards/*.json")):
        told = json.loads(RetryPolicy().run(partial(fs.cat_file, record)))
        if told["images"]:
            name = str(told["data"]["name"])
            if ".." in name.split("/"):
                raise ValueError(f"its record names '{name}', outside of it")
            yield f"{path}/{name}"


def _under(fs: fsspec.AbstractFileSystem, path: str, names: Sequence[str]) -> list[str]:
    return [file for name in names for file in fs.glob(f"{path}/**/{name}")]


def _lines(fs: fsspec.AbstractFileSystem, file: str) -> pa.Table:
    info = RetryPolicy().run(lambda: fs.info(file))
    return _parsed(fs, file, info["size"], str(info.get("mtime") or info.get("ETag") or info.get("etag")))


@lru_cache(maxsize=4)
def _parsed(fs: fsspec.AbstractFileSystem, file: str, size: int, token: str) -> pa.Table:
    """The whole of a metadata file; kept, for its parts are read one by one."""
    with open_patiently(fs, file) as stream:
        if file.endswith(".csv"):
            return pyarrow.csv.read_csv(stream)
        data = stream.read()
    check_lines(data)
    return pyarrow.json.read_json(pa.BufferReader(data))


def _walk(fs: fsspec.AbstractFileSystem, file: str, *, pictures: bool) -> Iterator[tuple[set[str], dict[str, Any]]]:
    """For each key of a tar the names of its columns and its values; without ``pictures`` theirs are not read."""
    with open_patiently(fs, file) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        key, row = None, dict[str, Any]()
        for member in tar:
            base, dot, kind = member.name.rpartition("/")[2].partition(".")
            if not member.isfile() or not dot or not base:
                continue
            place = member.name[: len(member.name) - len(kind) - 1]
            if key is not None and place != key and "image" in row:
                yield set(row), row
            if place != key:
                key, row = place, {}
            row |= _fields(tar, member, kind.lower(), pictures)
        if "image" in row:
            yield set(row), row


def _fields(tar: tarfile.TarFile, member: tarfile.TarInfo, kind: str, pictures: bool) -> dict[str, Any]:
    if kind not in (*_PICTURES, "json", "txt"):
        return {}
    # A sparse member of a few bytes unpacks to terabytes of zeros.
    if member.issparse() or member.size > _MOST_BYTES[kind in _PICTURES]:
        raise ValueError(f"its member '{member.name[:80]}' is sparse or has {member.size:,} bytes, more than are read")
    content = tar.extractfile(member)
    assert content is not None  # a file, as the caller asked
    if kind in _PICTURES:
        return {"image": {"bytes": content.read() if pictures else b"", "path": member.name}}
    if kind == "json":
        told = json.loads(content.read())
        return {name: value for name, value in told.items() if name != "image"} if isinstance(told, dict) else {}
    return {"caption": content.read().decode("utf-8")}
