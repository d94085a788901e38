"""One place on local disk or an object store, spoken to through fsspec: reads, lists, and create-only-if-absent.

Object stores get a conditional put (``If-None-Match: *``), whole or multipart; for a local directory see
`pipeline.local_disk`. Data is never renamed, and nothing is believed about listings that follow a write. Transient
errors are retried with exponential backoff and full jitter; permanent ones end at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from actors.errors import JobError, UserError
from pipeline import instruments
from pipeline.local_disk import LocalDisk
from pipeline.patient_file import BLOCK, open_uncached, patient
from pipeline.retry import RetryPolicy
from pipeline.server_side_encryption import advice, fsspec_options
from pipeline.storage_errors import answered, describe, is_taken, is_transient, public_uri

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One object: its name under the root, its size in bytes, and its last change as the store tells it (or None)."""

    name: str
    size: int
    modified: Any = None


@dataclass(repr=False)
class Store:
    """The objects under one root URI.

    Args:
        uri: a local path or any fsspec URI.
        options: fsspec options of the file system; ``sse`` among them as `pipeline.server_side_encryption` says.
        unconditional: the user promises a single writer, so a plain put stands in for a conditional one.
        attempts: tries of one request.
        max_backoff: seconds between two tries at most.
        sleep: waits that many seconds between two tries; the clock of a simulation goes here.
    """

    uri: str
    options: dict[str, Any] = field(default_factory=dict)
    unconditional: bool = False
    attempts: int = 8
    max_backoff: float = 20.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._connect()

    def __repr__(self) -> str:
        # Ray and tracebacks print what they hold: never options or a URI's password.
        return f"Store({self.public()!r})"

    def _connect(self) -> None:
        try:
            given = fsspec_options(self.uri, self.options)
            self.fs, self.root = fsspec.core.url_to_fs(self.uri, **_own_options(self.uri, given))
        except (ValueError, ImportError) as error:
            raise UserError(f"'{public_uri(self.uri)}' is no place that fsspec can open: {describe(error)}") from error
        self.root = self.root.rstrip("/") or "/"
        self.local = isinstance(self.fs, LocalFileSystem)
        self._disk = LocalDisk(Path(self.root))

    def __getstate__(self) -> dict[str, Any]:
        # A file system holds sockets and an event loop: each process opens its own.
        return {k: v for k, v in self.__dict__.items() if k not in {"fs", "root", "local", "_disk"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()

    def path(self, name: str) -> str:
        """The full path of the object ``name``, as this file system wants it."""
        return f"{self.root}/{name}"

    def public(self, name: str = "") -> str:
        """The URI of an object for messages: never holds credentials."""
        base = public_uri(self.uri).rstrip("/")
        return f"{base}/{name}" if name else base

    def read(self, name: str) -> bytes | None:
        """The bytes of an object, or None where there is none; never answered from a cache."""

        def attempt() -> bytes | None:
            self._forget(name)
            try:
                data: bytes = self.fs.cat_file(self.path(name))
            except FileNotFoundError:
                return None
            return data

        return self.request(attempt, name, "read")

    def size(self, name: str) -> int | None:
        """The size of an object in bytes, or None where there is none; never answered from a cache."""

        def attempt() -> int | None:
            self._forget(name)
            try:
                return int(self.fs.info(self.path(name))["size"])
            except FileNotFoundError:
                return None

        return self.request(attempt, name, "look up")

    def list(self, prefix: str) -> list[Entry]:
        """The objects directly under ``prefix/``, sorted by name; an absent prefix is empty."""

        def attempt() -> list[Entry]:
            self._forget(prefix)
            try:
                found = self.fs.ls(self.path(prefix), detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
            start = len(self.root) + 1
            return sorted(
                (
                    Entry(f["name"][start:], int(f["size"] or 0), f.get("LastModified", f.get("mtime")))
                    for f in found
                    if f["type"] == "file" and f["name"].rstrip("/") != self.path(prefix)
                ),
                key=lambda entry: entry.name,
            )

        return self.request(attempt, prefix, "list")

    def directories(self, prefix: str) -> tuple[str, ...]:
        """The names of the directories directly under ``prefix/``, sorted; an absent prefix has none."""

        def attempt() -> tuple[str, ...]:
            self._forget(f"{prefix}/any")
            try:
                found = self.fs.ls(self.path(prefix), detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return ()
            start = len(self.root) + 1
            return tuple(sorted(f["name"].rstrip("/")[start:] for f in found if f["type"] == "directory"))

        return self.request(attempt, prefix, "list")

    def create(self, name: str, source: bytes | Path) -> bool:
        """Puts an object under a name that must be free.

        An outcome that stays unknown (a lost reply, 409, 5xx) is settled by asking again: the condition makes the
        repeat harmless.

        Returns:
            True when this call is known to have made the object; False when the name is taken, possibly by an earlier
            try of this very call: the caller reads back what is there.

        Raises:
            UserError: no permission, no such bucket, disk full: the user mends the place.
            JobError: the store failed for as long as it was tried.
        """

        def attempt() -> bool:
            if self.local:
                return self._disk.create(name, source)
            if self.unconditional:
                self._put(name, source, {})
                return True
            try:
                self._put(name, source, {"mode": "create"})
            except Exception as error:
                if not is_taken(error):
                    raise
                return False
            return True

        created = self.request(attempt, name, "write")
        if created:
            instruments.STORAGE_WRITTEN.add(len(source) if isinstance(source, bytes) else source.stat().st_size)
        return created

    def replace(self, name: str, data: bytes) -> None:
        """Puts an object whatever is there: for pages and notes that describe the run, never for data."""

        def attempt() -> None:
            if self.local:
                self._disk.replace(name, data)
            else:
                self._put(name, data, {})

        self.request(attempt, name, "write")
        instruments.STORAGE_WRITTEN.add(len(data))

    def remove(self, name: str) -> None:
        """Deletes an object; one that is not there is no error.

        For notes; of data only by `pipeline.quarantine`, which has read a copy back, and `pipeline.garbage`.
        """

        def attempt() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(self.path(name))

        self.request(attempt, name, "delete")

    def remove_directory(self, prefix: str) -> None:
        """Takes away an empty directory that nobody will write to; an object store has none."""
        if self.local:
            self._disk.remove_directory(prefix)

    def sha256(self, name: str, into: Path | None = None) -> tuple[str, int] | None:
        """(hex digest, size in bytes) of an object, streamed, also into the file ``into``; None where there is none."""

        def attempt() -> tuple[str, int] | None:
            digest, size = hashlib.sha256(), 0
            self._forget(name)
            try:
                with (
                    self.fs.open(self.path(name), "rb", cache_type="readahead") as stream,
                    contextlib.nullcontext() if into is None else into.open("wb") as copy,
                ):
                    while chunk := stream.read(1 << 22):
                        digest.update(chunk)
                        size += len(chunk)
                        if copy is not None:
                            copy.write(chunk)
            except FileNotFoundError:
                return None
            return digest.hexdigest(), size

        return self.request(attempt, name, "read")

    def parse(self, name: str, use: Callable[[BinaryIO], T]) -> T | None:
        """What ``use`` makes of an object's stream, fetched as it is read; None where there is no such object.

        A transient error runs ``use`` again on a new stream. Its other errors go up as they are.
        """

        def attempt() -> T | Exception | None:
            self._forget(name)
            try:
                with self.fs.open(self.path(name), "rb") as stream:
                    return use(stream)
            except FileNotFoundError:
                return None
            except ValueError as error:
                # The content's fault, not the store's: no sentence about the store may stand in for it.
                if is_transient(error):
                    raise
                return error

        found = self.request(attempt, name, "read")
        if isinstance(found, Exception):
            raise found
        return found

    def open(self, name: str, block: int = BLOCK) -> BinaryIO | None:
        """An object as a seekable file that is fetched piece by piece; None where there is none.

        Each piece is tried again like any other request; see `request` for what its reads raise.

        Args:
            name: the object.
            block: bytes that are fetched at least.
        """

        def ask(attempt: Callable[[], T], /) -> T:
            return self.request(attempt, name, "read")

        def attempt() -> BinaryIO | None:
            self._forget(name)
            try:
                return open_uncached(self.fs, self.path(name), block)
            except FileNotFoundError:
                return None

        stream = ask(attempt)
        return None if stream is None else patient(stream, ask, block)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for building one object's file; on local disk it is on the output's own volume."""
        try:
            parent = self._disk.scratch() if self.local else None
            made = tempfile.TemporaryDirectory(prefix="promptmill-", dir=parent)
        except OSError as error:
            raise UserError(f"cannot make a scratch file for '{self.public()}': {describe(error)}") from error
        with made as directory:
            yield Path(directory)

    def probe(self) -> None:
        """Finds out before any work whether the store can be written and honours the condition.

        Raises:
            UserError: not writable, no such bucket, wrong credentials; or a second create of one name went through.
        """
        name = f"_run/probe-{uuid.uuid4().hex}"
        self.create(name, b"promptmill probes whether this store refuses to overwrite")
        try:
            taken = self.unconditional or not self.create(name, b"this must never be stored")
        finally:
            self.remove(name)
        if not taken:
            raise UserError(
                f"the store of '{self.public()}' ignores 'create only if absent', so two writers could overwrite one "
                "another; use a store that honours it, or set storage.unconditional=true and let one run write"
            )

    def _put(self, name: str, source: bytes | Path, options: dict[str, Any]) -> None:
        try:
            if isinstance(source, bytes):
                self.fs.pipe_file(self.path(name), source, **options)
            else:
                self.fs.put_file(str(source), self.path(name), **options)
        except TypeError as error:
            if "mode" not in str(error):
                raise
            raise UserError(
                f"fsspec's file system of '{self.public()}' has no 'create only if absent'; use s3:// or local disk, "
                "or set storage.unconditional=true and let one run write at a time"
            ) from error

    def _forget(self, name: str) -> None:
        # Another process may have written since: fsspec's directory cache would answer with the past.
        full = self.path(name)
        self.fs.invalidate_cache(full)
        self.fs.invalidate_cache(full.rpartition("/")[0])

    def request(self, attempt: Callable[[], T], name: str, verb: str) -> T:
        """What ``attempt`` returns, tried again while its errors are transient.

        Args:
            attempt: one try.
            name: the object, for messages.
            verb: what is done to it, for messages.

        Raises:
            UserError: an error that stays.
            JobError: the tries are used up.
        """
        try:
            return RetryPolicy(self.attempts, self.max_backoff, self.sleep).run(attempt)
        except (UserError, JobError):
            raise
        except Exception as error:
            instruments.STORAGE_FAILURES.add(verb=verb)
            where = self.public(name)
            if is_transient(error):
                raise JobError(
                    f"cannot {verb} '{where}': {describe(error)} after {self.attempts} tries; run again to resume"
                ) from error
            why = describe(error) + advice(self.options, answered(error))
            raise UserError(f"cannot {verb} '{where}': {why}") from error


def _own_options(uri: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options without what would answer from the past or multiply requests.

    A kept listing: s3fs looks into it before it reads, and so misses what another process has put since, or takes the
    old size for the new object's. botocore's own retries: they multiply with ours, a 503 would be asked 25 times a try.
    """
    own: dict[str, Any] = {**options, "use_listings_cache": False}
    if uri.startswith(("s3://", "s3a://")):
        own["config_kwargs"] = {"retries": {"max_attempts": 0}, **options.get("config_kwargs", {})}
    return own
