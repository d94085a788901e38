"""Finished images of one shard, kept on disk until the shard is written: memory stays flat however large it gets."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from actors.contracts import EncodedImage
from actors.errors import RowError


@dataclass(frozen=True, slots=True)
class SpooledImage:
    """Where one image lies in the spool, and its size in pixels."""

    offset: int
    length: int
    width: int
    height: int


class ImageSpool:
    """Takes what the generator makes of one shard (an `actors.contracts.ImageSink`), from several threads."""

    def __init__(self, directory: Path) -> None:
        path = directory / "images.spool"
        self._file = path.open("wb+")
        # Without a name from now on: whatever kills this process, the images do not stay behind in the clear.
        path.unlink()
        self._lock = threading.Lock()
        self._end = 0
        self.images: dict[int, SpooledImage] = {}
        self.errors: dict[int, RowError] = {}

    def add(self, index: int, image: EncodedImage) -> None:
        """Takes the finished image of job number ``index``."""
        with self._lock:
            self._file.seek(self._end)
            self._file.write(image.data)
            self.images[index] = SpooledImage(self._end, len(image.data), image.width, image.height)
            self._end += len(image.data)

    def fail(self, index: int, error: RowError) -> None:
        """Takes the reason why job number ``index`` could not be made."""
        with self._lock:
            self.errors[index] = error

    def read(self, index: int) -> bytes:
        """The encoded bytes of job number ``index``."""
        image = self.images[index]
        with self._lock:
            self._file.seek(image.offset)
            return self._file.read(image.length)

    def __enter__(self) -> ImageSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
