"""The prompt table: which Parquet files it is made of, what columns it has, and how a slice of it is read.

Only footers are read to open a table. Its identity is the SHA-256 of the files' bytes, computed once when the run is
first planned; later starts compare each file's size and change token (ETag or mtime) with the plan's.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from actors.errors import JobError, PromptmillError, UserError
from pipeline.config_stages import Prompts
from pipeline.patient_file import open_patiently
from pipeline.plain_parquet import PlainParquet, plain_schema
from pipeline.retry import RetryPolicy
from pipeline.server_side_encryption import fsspec_options, with_sse
from pipeline.storage_errors import describe, is_transient, public_uri


@dataclass(frozen=True)
class TableFile:
    """One Parquet file of the table: where it is, and what its footer and the store said when it was planned."""

    path: str
    size: int
    token: str
    row_groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows in the file."""
        return sum(self.row_groups)


@dataclass(frozen=True)
class PromptTable:
    """A prompt table that was found and whose columns were checked; holds no rows."""

    uri: str
    options: dict[str, Any] = field(repr=False)
    files: tuple[TableFile, ...]
    schema: pa.Schema
    column: str
    limit: int | None

    @property
    def rows(self) -> int:
        """Rows of the table, `prompts.limit` applied."""
        total = sum(file.rows for file in self.files)
        return total if self.limit is None else min(total, self.limit)

    def slices(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The parts of rows [start, stop) by file: (number of the file, first row, row after the last)."""
        offset = 0
        for number, file in enumerate(self.files):
            low, high = max(start - offset, 0), min(stop - offset, file.rows)
            if low < high:
                yield number, low, high
            offset += file.rows
            if offset >= stop:
                return

    def content_hash(self) -> str:
        """SHA-256 over the files' bytes in their order: reads the table once, a few MiB at a time."""
        fs = open_fs(self.uri, self.options)
        digest = hashlib.sha256()
        for file in self.files:
            with _reading(file.path), open_patiently(fs, file.path) as stream:
                digest.update(file.size.to_bytes(8, "big"))
                while chunk := stream.read(1 << 22):
                    digest.update(chunk)
        return digest.hexdigest()

    def tokens(self) -> list[list[str | int]]:
        """[name, size, change token] of each file: equal tokens mean that the content need not be hashed again."""
        return [[public_uri(file.path).rpartition("/")[2], file.size, file.token] for file in self.files]

    def batches(self, columns: list[str], rows: int = 65_536) -> Iterator[pa.Table]:
        """Streams some columns of the table in order, at most ``rows`` at a time, the limit applied."""
        fs, left = open_fs(self.uri, self.options), self.rows
        for file in self.files:
            if left <= 0:
                return
            with _reading(file.path), open_patiently(fs, file.path) as stream:
                for batch in PlainParquet(stream, file.path).batches(columns, rows=rows):
                    table = batch.slice(0, left)
                    left -= table.num_rows
                    if table.num_rows:
                        yield table


def open_table(config: Prompts) -> PromptTable:
    """Finds the table's files and checks its schema.

    Raises:
        UserError: no file, no Parquet, damaged file, differing schemas, an empty table, a missing or ill-typed column.
        JobError: the store does not answer.
    """
    options = with_sse(config.options, config.sse)
    fs = open_fs(config.uri, options)
    shown = public_uri(config.uri)
    try:
        paths = RetryPolicy().run(lambda: _expand(fs, config.uri))
    except PromptmillError:
        raise
    except Exception as error:
        kind = JobError if is_transient(error) else UserError
        raise kind(f"prompt table '{shown}' cannot be read: {describe(error)}") from error
    with ThreadPoolExecutor(16) as pool:
        opened = list(pool.map(functools.partial(_open_file, fs), paths))
    first = opened[0][1]
    for file, schema in opened[1:]:
        if not schema.equals(first):
            raise UserError(
                f"the files of prompt table '{shown}' differ in their columns: '{public_uri(file.path)}' has "
                f"{_columns(schema)}, "
                f"'{public_uri(opened[0][0].path)}' has {_columns(first)}; write them with one schema"
            )
    files = tuple(file for file, _ in opened)
    table = PromptTable(config.uri, options, files, first, config.column, config.limit)
    if table.rows == 0:
        raise UserError(f"prompt table '{shown}' has no rows; nothing to make")
    return table


def read_rows(fs: Any, file: TableFile, start: int, stop: int, columns: list[str]) -> pa.Table:
    """Reads rows [start, stop) of one file: only the row groups that they touch.

    Raises:
        UserError: the file is no longer the one that was planned.
    """
    check_unchanged(fs, file)
    parts, offset = [], 0
    for number, rows in enumerate(file.row_groups):
        low, high = max(start - offset, 0), min(stop - offset, rows)
        if low < high:
            group = _row_group(_Cached(fs), file, number, tuple(columns))
            if group.num_rows != rows:
                raise UserError(_changed(file.path))
            parts.append(group.slice(low, high - low))
        offset += rows
    return pa.concat_tables(parts)


def check_unchanged(fs: Any, file: TableFile) -> None:
    """Raises `UserError` where the file's size or change token is not the planned one."""
    with _reading(file.path):
        try:
            info = RetryPolicy().run(lambda: _fresh_info(fs, file.path))
        except FileNotFoundError as error:
            raise UserError(
                f"prompt file '{public_uri(file.path)}' is gone since the plan was made; put it back"
            ) from error
    if (int(info["size"]), _token(info)) != (file.size, file.token):
        raise UserError(_changed(file.path))


def _fresh_info(fs: Any, path: str) -> dict[str, Any]:
    fs.invalidate_cache(path.rpartition("/")[0])
    found: dict[str, Any] = fs.info(path)
    return found


def open_fs(uri: str, options: dict[str, Any]) -> Any:
    """The fsspec file system of a URI; ``options`` may hold ``sse`` (see `pipeline.server_side_encryption`)."""
    try:
        return fsspec.core.url_to_fs(uri, **fsspec_options(uri, options))[0]
    except (ValueError, ImportError) as error:
        raise UserError(f"'{public_uri(uri)}' is no place that fsspec can open: {describe(error)}") from error


class _Cached:
    """A file system as a cache key: equal to any other, since the file's path and token say what is read."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Cached)

    def __hash__(self) -> int:
        return 0


# Neighbouring shards share row groups: without this a group of a million rows would be decoded once a shard.
@functools.lru_cache(maxsize=2)
def _row_group(fs: _Cached, file: TableFile, number: int, columns: tuple[str, ...]) -> pa.Table:
    with _reading(file.path), open_patiently(fs.fs, file.path) as stream:
        return PlainParquet(stream, file.path).read(number, columns)


def _converted(path: str) -> str | None:
    """How to make a Parquet table of a text file that is named as one; None for other names."""
    kind = {".csv": "csv", ".jsonl": "json", ".ndjson": "json"}.get(PurePosixPath(path).suffix.lower())
    if kind is None:
        return None
    return (
        f'make it one by python -c "import pyarrow.{kind} as a, pyarrow.parquet as b; '
        f"b.write_table(a.read_{kind}('YOURS'), 'prompts.parquet')\""
    )


class _reading:  # noqa: N801 - reads as a statement
    """Turns the errors of reading one Parquet file into a sentence."""

    def __init__(self, path: str) -> None:
        self.path = public_uri(path)  # a path of HTTP is a URL, whose query may be a signature

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FileNotFoundError):
            raise UserError(f"no prompt file at '{self.path}'") from error
        if isinstance(error, pa.ArrowInvalid | EOFError):
            raise UserError(
                f"'{self.path}' is no readable Parquet file (truncated, or another format): "
                + (_converted(self.path) or str(error)[:160])
            ) from error
        if error is not None and is_transient(error):
            raise JobError(f"prompt file '{self.path}' cannot be read now: {describe(error)}; run again") from error
        # Drivers of object stores raise classes of their own (botocore's share no base with OSError).
        if isinstance(error, Exception) and not isinstance(error, PromptmillError):
            raise UserError(f"prompt file '{self.path}' cannot be read: {describe(error)}") from error


def _open_file(fs: Any, path: str) -> tuple[TableFile, pa.Schema]:
    with _reading(path):
        info = RetryPolicy().run(lambda: _fresh_info(fs, path))
        if int(info["size"]) == 0:
            raise UserError(f"prompt file '{public_uri(path)}' is empty (0 bytes)")
        with open_patiently(fs, path) as stream:
            parquet = PlainParquet(stream, path)
            groups, schema = parquet.row_groups, plain_schema(parquet.stored)
    return TableFile(path, int(info["size"]), _token(info), groups), schema


def _token(info: dict[str, Any]) -> str:
    """What changes when the file is written again: ETag, version, or modification time in nanoseconds."""
    for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created"):
        if info.get(key) is not None:
            return str(info[key]).strip('"')
    return ""


def _expand(fs: Any, uri: str) -> list[str]:
    shown = public_uri(uri)
    root = fsspec.core.url_to_fs(uri)[1] if isinstance(fs, LocalFileSystem) else fs._strip_protocol(uri)
    if any(sign in root for sign in "*?["):
        paths = [p for p in fs.glob(root) if _kind(fs, p) == "file"]
        if not paths:
            raise UserError(f"no file matches prompts.uri='{shown}'")
    elif (kind := _kind(fs, root)) == "file":
        paths = [root]
    elif kind == "directory":
        found: Iterable[str] = fs.find(root)
        paths = [p for p in found if p.endswith((".parquet", ".pq")) and not _hidden(p[len(root) :])]
        if not paths:
            raise UserError(f"the directory '{shown}' holds no Parquet file (*.parquet); mend prompts.uri")
    else:
        raise UserError(f"no prompt table at '{shown}'; mend prompts.uri")
    return sorted(paths)


def _kind(fs: Any, path: str) -> str | None:
    # Not isfile and isdir: they answer False to an error that passes.
    try:
        return str(fs.info(path)["type"])
    except FileNotFoundError:
        return None


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.strip("/").split("/"))


def _columns(schema: pa.Schema) -> str:
    return json.dumps({f.name: str(f.type) for f in schema})


def _changed(path: str) -> str:
    return (
        f"prompt file '{public_uri(path)}' has changed since the plan was made; put the planned file back, "
        "or write the new table's images to another output.uri"
    )
