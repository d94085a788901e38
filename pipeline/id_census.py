"""Ids that several rows of a dataset have, found in bounded memory however many rows there are.

Each id becomes 24 bytes (a 128-bit digest, shard, row), appended to one of 256 scratch files by the digest's first
byte. Equal ids meet in one file, so one file at a time is sorted in memory: some 10 MB (and 2.4 GB of scratch disk)
for a hundred million rows. Only where one id is in a great part of the rows does its one file hold as great a part.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("shard", "<u4"), ("row", "<u4")])
_FILES = 256
_BUFFERED = 4096
"""Bytes that one file may have waiting in memory."""


@dataclass(frozen=True, order=True)
class Doubled:
    """A row whose id an earlier row (by shard, then row) has too."""

    shard: int
    row: int
    first_shard: int
    first_row: int


class IdCensus:
    """Counts ids from several threads; use as a context manager, which owns the scratch files."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="promptmill-ids-")
        self._waiting = [bytearray() for _ in range(_FILES)]
        self._lock = threading.Lock()

    def take(self, shard: int, row: int, image_id: str) -> None:
        """Counts the id of one row."""
        digest = hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        entry = digest + shard.to_bytes(4, "little") + row.to_bytes(4, "little")
        with self._lock:
            waiting = self._waiting[digest[0]]
            waiting += entry
            if len(waiting) >= _BUFFERED:
                self._flush(digest[0])

    def doubled(self) -> Iterator[Doubled]:
        """The rows whose id came before, file by file."""
        for number in range(_FILES):
            with self._lock:
                self._flush(number)
            path = self._path(number)
            if not path.exists():
                continue
            found = np.fromfile(path, _ENTRY)
            found = found[np.lexsort((found["row"], found["shard"], found["low"], found["high"]))]
            same = (found["high"][1:] == found["high"][:-1]) & (found["low"][1:] == found["low"][:-1])
            # The start of the run of equal ids that each row stands in.
            starts = np.maximum.accumulate(np.where(np.concatenate([[False], same]), 0, np.arange(len(found))))
            for position in (np.flatnonzero(same) + 1).tolist():
                here, before = found[position], found[starts[position]]
                yield Doubled(int(here["shard"]), int(here["row"]), int(before["shard"]), int(before["row"]))

    def _flush(self, number: int) -> None:
        waiting = self._waiting[number]
        if waiting:
            with self._path(number).open("ab") as stream:
                stream.write(waiting)
            waiting.clear()

    def _path(self, number: int) -> Path:
        return Path(self._scratch.name) / f"{number:02x}"

    def __enter__(self) -> IdCensus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scratch.cleanup()
