"""A file followed while another writes it: hashed, and pushed to the disk, beside the writing instead of after it.

One pass over a shard to build it, one to hash it and one to wait for the disk cost as much as they sum to when they go
one after another; side by side they cost the longest of them. Hashing and `fdatasync` release the interpreter's lock.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_BLOCK = 1 << 20
# How often the end of the file is looked at again; a shard takes tens of milliseconds at least.
_POLL_SECONDS = 0.002
_push = getattr(os, "fdatasync", os.fsync)  # macOS has fsync alone


class FollowedFile:
    """Hashes a new file while it is written. Use as a context manager around the writing.

    The writer may only append: what was hashed once is not looked at again.

    Args:
        path: the file; it need not be there yet.
        sync: whether its bytes are pushed to the disk meanwhile (`fdatasync`), so that the last sync has little to do.

    Attributes:
        sha256: the digest of the whole file in hexadecimal, once the block is left without an exception.
        size: its bytes.

    Raises:
        OSError: on leaving, if the file could not be read or synced.
    """

    def __init__(self, path: Path, sync: bool = False) -> None:
        self._path, self._written = path, threading.Event()
        self._troubles: list[OSError] = []
        work = [self._hash, self._sync] if sync else [self._hash]
        self._threads = [threading.Thread(target=self._guard, args=(one,), name=f"follow {path.name}") for one in work]
        self.sha256, self.size = "", 0

    def __enter__(self) -> FollowedFile:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._written.set()
        for thread in self._threads:
            thread.join()
        if kind is None and self._troubles:
            raise self._troubles[0]

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as trouble:
            self._troubles.append(trouble)

    def _hash(self) -> None:
        digest, buffer = hashlib.sha256(), bytearray(_BLOCK)
        self._appears()
        with self._path.open("rb", buffering=0) as stream:
            while True:
                # Asked before the read: bytes that come in between are seen by the next round.
                over = self._written.is_set()
                count = stream.readinto(buffer)
                if count:
                    digest.update(memoryview(buffer)[:count])
                elif over:
                    break
                else:
                    self._written.wait(_POLL_SECONDS)
            self.size = stream.tell()
        self.sha256 = digest.hexdigest()

    def _sync(self) -> None:
        self._appears()
        with self._path.open("rb") as stream:
            synced = 0
            while not self._written.is_set():
                size = os.fstat(stream.fileno()).st_size
                if size - synced >= _BLOCK:
                    _push(stream.fileno())
                    synced = size
                else:
                    self._written.wait(_POLL_SECONDS)

    def _appears(self) -> None:
        while not self._path.exists() and not self._written.wait(_POLL_SECONDS):
            pass
