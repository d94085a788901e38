"""A file of an object store read piece by piece, each piece asked for again while the error is one that passes.

A reader of Parquet or tar keeps its file open for minutes, and knows of no second try: without this one connection that
is cut half way ends the job, and the whole object would have to be fetched anew.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from fsspec.spec import AbstractBufferedFile

from pipeline.retry import RetryPolicy

T = TypeVar("T")
BLOCK = 1 << 20


class Ask(Protocol):
    """Runs one request, again where it has to be."""

    def __call__(self, attempt: Callable[[], T], /) -> T:
        """What ``attempt`` returns."""
        ...


class PatientFile(io.RawIOBase):
    """A seekable, read-only file; one thread at a time.

    Args:
        stream: an open file of an object store, without a cache of its own: where it knows an object's version (S3's
            ETag), all pieces are of that one.
        ask: see `Ask`.
    """

    def __init__(self, stream: AbstractBufferedFile, ask: Ask) -> None:
        self._stream, self._ask, self._position = stream, ask, 0
        self._size = int(stream.size)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves; nothing is fetched."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("a position before the start of the file")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fetches as much as the buffer holds and the file has left."""
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._size - self._position))
        if length:
            view[:length] = self._ask(lambda: self._piece(length))
            self._position += length
        return length

    def close(self) -> None:
        """Closes the file below too."""
        if not self.closed:
            self._stream.close()
        super().close()

    def _piece(self, length: int) -> bytes:
        self._stream.seek(self._position)
        data: bytes = self._stream.read(length)
        if len(data) != length:
            raise ConnectionError(f"{len(data)} bytes came of {length}")
        return data


def open_uncached(fs: Any, path: str, block: int = BLOCK) -> BinaryIO:
    """One try to open a file of an fsspec file system, without fsspec's cache."""
    return cast(BinaryIO, fs.open(path, "rb", cache_type="none", block_size=block))


def patient(stream: Any, ask: Ask, block: int = BLOCK) -> BinaryIO:
    """The same file as a `PatientFile` with a buffer of ``block`` bytes, where it fetches ranges over a network."""
    if not isinstance(stream, AbstractBufferedFile) or stream.size is None:
        return cast(BinaryIO, stream)
    return cast(BinaryIO, io.BufferedReader(PatientFile(stream, ask), block))


def open_patiently(fs: Any, path: str) -> BinaryIO:
    """Opens a file for reading, with the tries of `pipeline.retry`.

    Raises:
        OSError: as the file system does, when no further try is left.
    """
    ask = RetryPolicy().run
    return patient(ask(lambda: open_uncached(fs, path)), ask)
