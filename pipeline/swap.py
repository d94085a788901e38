"""One small object that many may read and one at a time may change: compare-and-swap on disk and on S3.

On S3 the put carries ``If-Match: ETAG`` (AWS since November 2024, MinIO, Ceph), on local disk a lock file makes
comparison and rename one step. Not every S3 honours the condition: OpenStack Swift's ignores it on a put. So it is
tried on a scratch object first, and where it is not honoured the change is no more than a comparison followed by a put
and a look at what is there: `Swap.atomic` says so.

See marin's ``rigging/filesystem/conditional_object.py`` for the shape.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from actors.errors import JobError
from pipeline.storage import Store
from pipeline.storage_errors import is_taken, is_transient

_READS = 5


@dataclass(frozen=True)
class Versioned:
    """An object's bytes, and what changes with them (the store's ETag, or their digest)."""

    data: bytes
    version: str


class Swap:
    """The object ``name`` of a store."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    @cached_property
    def atomic(self) -> bool:
        """Whether no other writer can come between comparison and change."""
        return self._store.local or (self._s3 and self._honours_if_match())

    def read(self) -> Versioned | None:
        """What is there now; None where there is nothing."""
        if not self._s3:
            data = self._store.read(self._name)
            return None if data is None else Versioned(data, hashlib.sha256(data).hexdigest())
        for _ in range(_READS):
            before = self._etag()
            data = self._store.read(self._name)
            # Written in between: the bytes and the tag may belong to two different writes.
            if before == self._etag():
                return None if before is None or data is None else Versioned(data, before)
        raise JobError(f"'{self._store.public(self._name)}' changes all the time; run again to resume")

    def write(self, data: bytes, expected: Versioned | None) -> bool:
        """Puts ``data`` where ``expected`` (None: nothing) is there.

        Returns:
            Whether ``data`` is there now: False means that somebody else changed it, and nothing was written.
        """
        if self._store.local:
            return self._write_locked(data, expected)
        if expected is None:
            return self._store.create(self._name, data) or self._is_there(data)
        if self.atomic:
            return self._put_if_match(self._name, data, expected.version) or self._is_there(data)
        now = self.read()
        if now is None or now.version != expected.version:
            return False
        self._store.replace(self._name, data)
        return self._is_there(data)

    def _is_there(self, data: bytes) -> bool:
        # A try whose reply was lost has changed the version: its repeat is refused, and yet it is done.
        return self._store.read(self._name) == data

    def _write_locked(self, data: bytes, expected: Versioned | None) -> bool:
        target = Path(self._store.path(self._name))

        def attempt() -> bool:
            target.parent.mkdir(parents=True, exist_ok=True)
            with (target.parent / f".{target.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                now = self.read()
                if (now and now.version) != (expected and expected.version):
                    return False
                replace_file(target, data)
                return True

        return self._store.request(attempt, self._name, "write")

    @property
    def _s3(self) -> bool:
        return self._store.uri.startswith(("s3://", "s3a://"))

    def _etag(self) -> str | None:
        def attempt() -> str | None:
            path = self._store.path(self._name)
            self._store.fs.invalidate_cache(path)
            self._store.fs.invalidate_cache(path.rpartition("/")[0])
            try:
                return str(self._store.fs.info(path)["ETag"])
            except FileNotFoundError:
                return None

        return self._store.request(attempt, self._name, "look up")

    def _put_if_match(self, name: str, data: bytes, version: str) -> bool:
        def attempt() -> bool:
            try:
                self._store.fs.pipe_file(self._store.path(name), data, IfMatch=version)
            except FileNotFoundError:
                return False
            except Exception as error:
                if not is_taken(error):
                    raise
                return False
            return True

        return self._store.request(attempt, name, "write")

    def _honours_if_match(self) -> bool:
        name = f".{self._name}-probe-{uuid.uuid4().hex}"
        self._store.create(name, b"promptmill asks whether this store compares before it overwrites")
        try:
            self._store.fs.pipe_file(self._store.path(name), b"this must never be stored", IfMatch=f'"{"0" * 32}"')
        except Exception as error:
            if is_transient(error) and not is_taken(error):
                raise JobError(
                    f"the store of '{self._store.public(self._name)}' did not say whether it honours If-Match; run "
                    "again to resume"
                ) from error
            # Refused as unknown (501) is as little a condition as one that is ignored.
            return is_taken(error)
        finally:
            self._store.remove(name)
        return False


def replace_file(target: Path, data: bytes) -> None:
    """Writes a local file whole or not at all: a synced sibling, renamed over it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}-{uuid.uuid4().hex}"
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
