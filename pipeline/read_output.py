"""Rows read back from an output, whatever its format: a spread-out sample, or the one with an id.

Memory is bounded by one image and a few pages: Parquet is decoded a row at a time, tars are walked through.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from actors.errors import JobError
from actors.marks import produce_id
from pipeline.plain_parquet import PlainParquet
from pipeline.storage import Store

_SAMPLE_SHARDS = 16
# Bytes that a sample may have to pass over in one shard: large images come from the start of a row group or tar.
_SAMPLE_REACH = 16 << 20
_SMALL_BUFFER = 1 << 16
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class OutputRow:
    """One image of an output.

    ``values`` has the output columns except ``image``; from a tar they are what its JSON holds (no Arrow types).
    ``image`` is the encoded file, bytes as stored.
    """

    shard: int
    values: dict[str, Any]
    image: bytes


def sample_shards(images_of: Mapping[int, int], count: int) -> list[int]:
    """The shards that a sample of ``count`` rows comes from, out of those with images (numbers of images by shard)."""
    with_images = [shard for shard, images in images_of.items() if images]
    return [with_images[i] for i in _spread(len(with_images), min(_SAMPLE_SHARDS, count))]


def sample_rows(store: Store, output_format: str, records: Sequence[dict[str, Any]], count: int) -> list[OutputRow]:
    """Up to ``count`` rows spread evenly over at most 16 shards, which are spread evenly over the output.

    Raises:
        JobError: an object that a record names cannot be read.
    """
    sampled = set(sample_shards({record["shard"]: record["images"] for record in records}, count))
    chosen = [record for record in records if record["shard"] in sampled]
    even = -(-count // max(1, len(chosen)))
    reach = {record["shard"]: _reach(record, even) for record in chosen}
    wanted: dict[int, int] = {}
    # The smallest first: what a small shard cannot give, the larger ones do.
    for left, record in enumerate(sorted(chosen, key=lambda record: reach[record["shard"]])):
        share = -(-(count - sum(wanted.values())) // (len(chosen) - left))
        wanted[record["shard"]] = min(share, reach[record["shard"]])
    rows: list[OutputRow] = []
    for record in chosen:
        # Another phase in each shard: tables often repeat with a period, and one phase would show one part of it.
        phase = record["shard"] * _GOLDEN % 1.0
        positions = _spread(reach[record["shard"]], wanted[record["shard"]], phase)
        if positions:
            rows += _READERS[output_format](store, record, positions)
    return rows


def find_row(store: Store, output_format: str, records: Iterable[dict[str, Any]], image_id: str) -> OutputRow | None:
    """The row with this id, or None; looks through the shards in turn, at their ids alone.

    ``image_id`` may be what the image's marks make of an id that is too long for them (`actors.marks.produce_id`).

    Raises:
        JobError: an object that a record names cannot be read.
    """
    for record in records:
        if record["images"]:
            ids = _tar_ids(store, record) if output_format == "webdataset" else _parquet_ids(store, record)
            for position, found in enumerate(ids):
                if image_id in (found, produce_id(found)):
                    return _READERS[output_format](store, record, [position])[0]
    return None


def column_batches(
    store: Store, output_format: str, record: dict[str, Any], columns: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """Some columns of a shard's rows in their order, a batch at a time, without the images.

    Of Parquet the other columns are not fetched; a tar is passed through from one header to the next.

    Raises:
        JobError: an object that the record names cannot be read, or has no such column.
    """
    with _opened(store, record) as stream:
        if output_format == "webdataset":
            for _, member, read in _tar_members(stream):
                if member.endswith(".json"):
                    values = json.loads(read())
                    yield [{name: values[name] for name in columns}]
        else:
            for batch in PlainParquet(stream, record["data"]["name"]).batches(columns):
                yield batch.select(list(columns)).to_pylist()


def _reach(record: dict[str, Any], least: int) -> int:
    """How many of a shard's first rows a sample may choose from."""
    images = int(record["images"])
    if record["parts"]:
        return images  # each image is an object of its own: nothing is passed over
    weight = max(1, int(record["data"]["size"]) // images)
    return min(images, max(least, _SAMPLE_REACH // weight))


def _spread(size: int, count: int, phase: float = 0.5) -> list[int]:
    """``count`` numbers below ``size`` (all, where it is smaller) at even distances; ``phase`` in [0, 1) moves them."""
    count = min(size, count)
    return [int((i + phase) * size / count) for i in range(count)]


def _parquet_rows(store: Store, record: dict[str, Any], positions: Sequence[int]) -> list[OutputRow]:
    rows = []
    for values in _table_rows(store, record, positions):
        image = values.pop("image")
        rows.append(OutputRow(record["shard"], values, image["bytes"]))
    return rows


def _files_rows(store: Store, record: dict[str, Any], positions: Sequence[int]) -> list[OutputRow]:
    folder = record["data"]["name"].rpartition("/")[0]
    rows = []
    for values in _table_rows(store, record, positions):
        name = f"{folder}/{values.pop('file_name')}"
        if ".." in name.split("/"):
            raise JobError(f"'{store.public(record['data']['name'])}' names a file outside of the output: '{name}'")
        image = store.read(name)
        if image is None:
            raise JobError(f"'{store.public(name)}' is gone; the record of shard {record['shard']} names it")
        rows.append(OutputRow(record["shard"], values, image))
    return rows


def _table_rows(store: Store, record: dict[str, Any], positions: Sequence[int]) -> Iterator[dict[str, Any]]:
    with _opened(store, record) as stream:
        # Without pre-buffering a column chunk is read page by page, so that the first rows do not cost the whole group.
        file = PlainParquet(stream, record["data"]["name"], pre_buffer=False, buffer_size=_SMALL_BUFFER)
        start = 0
        for group, rows in enumerate(file.row_groups):
            inside = {position - start for position in positions if start <= position < start + rows}
            if inside:
                batches = file.batches(rows=1, groups=[group], threads=False)
                for row, batch in zip(range(max(inside) + 1), batches, strict=False):
                    if row in inside:
                        yield batch.to_pylist()[0]
            start += rows


def _parquet_ids(store: Store, record: dict[str, Any]) -> Iterator[str]:
    with _opened(store, record) as stream:
        for batch in PlainParquet(stream, record["data"]["name"]).batches(["id"]):
            yield from batch["id"].to_pylist()


def _tar_rows(store: Store, record: dict[str, Any], positions: Sequence[int]) -> list[OutputRow]:
    rows: list[OutputRow] = []
    images: dict[str, bytes] = {}
    with _opened(store, record) as stream:
        for position, member, read in _tar_members(stream):
            if position > max(positions):
                break
            if position in positions:
                key, _, kind = member.rpartition(".")
                if kind != "json":
                    images[key] = read()
                else:
                    rows.append(OutputRow(record["shard"], json.loads(read()), images.pop(key)))
    return rows


def _tar_ids(store: Store, record: dict[str, Any]) -> Iterator[str]:
    with _opened(store, record) as stream:
        for _, member, read in _tar_members(stream):
            if member.endswith(".json"):
                yield json.loads(read())["id"]


def _tar_members(stream: BinaryIO) -> Iterator[tuple[int, str, Callable[[], bytes]]]:
    """(row, name, reader) of the members that belong to rows; an image comes before its JSON."""
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        row = 0
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member that it has seen
            if "." in member.name:
                yield row, member.name, lambda member=member: _content(tar, member)  # type: ignore[misc]
                row += member.name.endswith(".json")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    return b"" if content is None else content.read()


@contextmanager
def _opened(store: Store, record: dict[str, Any]) -> Iterator[BinaryIO]:
    name = record["data"]["name"]
    try:
        opened = store.open(name)
        if opened is None:
            raise JobError(f"'{store.public(name)}' is gone; the record of shard {record['shard']} names it")
        with opened as stream:
            yield stream
    except (OSError, pa.ArrowInvalid, tarfile.TarError, KeyError, ValueError) as error:
        raise JobError(
            f"cannot read '{store.public(name)}' back: {type(error).__name__}; its record says shard {record['shard']}"
        ) from error


_READERS: dict[str, Callable[[Store, dict[str, Any], Sequence[int]], list[OutputRow]]] = {
    "parquet": _parquet_rows,
    "webdataset": _tar_rows,
    "files": _files_rows,
}
