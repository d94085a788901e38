"""Where a shard's data object is built: in memory where it is small and goes over a network, otherwise on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.followed_file import FollowedFile

# fsspec's file systems read a file of up to 100 MB whole before they put it: built in memory, one needs no more.
_IN_MEMORY = 64 << 20


@dataclass(frozen=True)
class Built:
    """A finished object: its bytes or the file that holds them, its size in bytes, its digest in hexadecimal."""

    source: bytes | Path
    size: int
    sha256: str


def build_object(build: Callable[[pa.NativeFile], None], path: Path, *, sync: bool, expected: int | None) -> Built:
    """Has an object written and hashed.

    Args:
        build: appends the object's bytes to what it is given.
        path: where the object lies if it is built on disk; no file is there yet.
        sync: it stays on this disk, to which its bytes are pushed meanwhile (`pipeline.followed_file`).
        expected: about how many bytes there will be; None = that is not known.

    Raises:
        OSError: the file could not be written, read or synced.
    """
    if sync or expected is None or expected > _IN_MEMORY:
        with FollowedFile(path, sync=sync) as written, pa.OSFile(str(path), "wb") as file:
            build(file)
        return Built(path, written.size, written.sha256)
    sink = pa.BufferOutputStream()
    build(sink)
    data = sink.getvalue().to_pybytes()
    return Built(data, len(data), hashlib.sha256(data).hexdigest())
