"""A tar a shard in the WebDataset convention: ``KEY.png`` and ``KEY.json`` for each image."""

from __future__ import annotations

import base64
import io
import json
import math
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline.formats.base import Json, Part, ShardFormat, ShardImages
from pipeline.storage import Store

# The first member: without an extension it belongs to no sample, and readers skip it.
_HEADER_MEMBER = "promptmill-shard"


class WebDatasetFormat(ShardFormat):
    """One tar a shard. Keys are shard and row number, never ids: a row's id may hold ``/`` or dots."""

    suffix = ".tar"

    def parts(self, shard: int, rows: pa.Table, images: ShardImages) -> Iterator[Part]:
        """None: the images are in the tar."""
        return iter(())

    def build(
        self, sink: pa.NativeFile, rows: pa.Table, images: ShardImages, header: Json, parts: Sequence[Json]
    ) -> None:
        """Writes the members one after the other; owner, mode and time are fixed so that the bytes are."""
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            first = {"header": header, "schema": base64.b64encode(rows.schema.serialize()).decode()}
            _add(tar, _HEADER_MEMBER, json.dumps(first, sort_keys=True).encode())
            row = 0
            for batch in rows.to_batches(max_chunksize=256):
                for values in batch.to_pylist():
                    key = f"{header['shard']:06d}-{row:06d}"
                    _add(tar, f"{key}.{images.extension}", images.read(row))
                    _add(tar, f"{key}.json", json.dumps(_plain(values), ensure_ascii=False).encode())
                    row += 1

    def read_header(self, store: Store, name: str) -> dict[str, Any] | None:
        """From the first member; only the start of the tar is fetched."""
        first = _first(store, name)
        return None if first is None else dict(first["header"])

    def read_schema(self, store: Store, name: str) -> pa.Schema | None:
        """From the first member: JSON alone does not tell a time from a text, nor a null's type."""
        first = _first(store, name)
        if first is None:
            return None
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(first["schema"]))).remove_metadata()


def _first(store: Store, name: str) -> dict[str, Any] | None:
    try:
        first = store.parse(name, _first_member)
    except ValueError:
        return None
    return first if isinstance(first, dict) and first.keys() == {"header", "schema"} else None


def _first_member(stream: BinaryIO) -> Any:
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            member = tar.next()
            content = tar.extractfile(member) if member is not None and member.name == _HEADER_MEMBER else None
            return None if content is None else json.loads(content.read())
    except tarfile.TarError as error:
        raise ValueError("no tar") from error


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _plain(value: Any) -> Any:
    """JSON has no decimals, times or bytes: they become text (ISO 8601, base64). NaN and infinities become null."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
