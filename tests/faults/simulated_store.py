"""An object store in memory behind fsspec, protocol ``sim://``: every request is a step of a `World` and may go wrong.

What a client sees is what s3fs shows of S3: botocore's errors, translated by s3fs itself. What happens in the store is
S3's contract: a put is whole or not at all, the condition is checked when it is applied, reads see every put that was
applied. What goes wrong on the way is drawn for each request; `FAULTS` names it all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from aiohttp import ClientPayloadError
from botocore.exceptions import ClientError, ReadTimeoutError
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from s3fs.errors import translate_boto_error

from tests.faults.virtual_time import Crash, World

T = TypeVar("T")

PUT_FAULTS = (
    "put: 503, not applied",
    "put: 503, applied",
    "put: 500, applied",
    "put: 409, not applied",
    "put: 409, applied",
    "put: cut before it is applied",
    "put: applied, the reply is lost",
    "put: time-out, applied much later",
    "put: sent twice at once",
    "put: sent twice, once much later",
)
READ_FAULTS = ("read: 503", "read: cut", "read: time-out", "read: half the body")
FAULTS = (
    *PUT_FAULTS,
    *READ_FAULTS,
    "delete: applied, the reply is lost",
    "crash",
    "crash with a put on its way",
    "pause",
)


@dataclass
class Thing:
    """One object: its bytes, when it was written, and how many writes it has seen."""

    data: bytes
    modified: float
    writes: int = 1

    @property
    def sha256(self) -> str:
        """Of the bytes."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass
class Bucket:
    """The store itself. ``fault_rate`` is the chance that one request goes wrong; 0 is fair weather.

    From ``multipart`` bytes on a file goes up in three requests, the last of which has the condition.
    """

    world: World
    fault_rate: float = 0.0
    multipart: int = 1 << 20
    things: dict[str, Thing] = field(default_factory=dict)
    uploads: dict[int, bytes] = field(default_factory=dict)

    def apply_put(self, name: str, data: bytes, condition: bool) -> bool:
        """The moment a put happens. False: the condition does not hold (412)."""
        old = self.things.get(name)
        if condition and old is not None:
            self.world.note(f"= 412 {name}")
            return False
        self.things[name] = Thing(data, self.world.clock, old.writes + 1 if old else 1)
        self.world.note(f"= put {name} {len(data)} bytes")
        return True

    def put(self, name: str, apply: Callable[[], bool]) -> None:
        """One put as the client lives it; raises what s3fs would."""
        world = self.world
        world.note(f"> put {name}")
        try:
            world.step()
        except Crash:
            if world.random.random() < 0.5:  # it was on its way
                world.count("crash with a put on its way")
                world.later(world.random.uniform(0, 200), lambda: self._late(name, apply))
            raise
        fault = self._fault(PUT_FAULTS)
        if fault is None:
            done = apply()
        elif fault == "put: sent twice at once":
            apply()
            done = apply()  # a proxy asked again: the client hears the second answer
        elif fault == "put: sent twice, once much later":
            done = apply()
            world.later(world.random.uniform(1, 600), lambda: self._late(name, apply))
        else:
            if fault == "put: time-out, applied much later":
                world.later(world.random.uniform(1, 600), lambda: self._late(name, apply))
            elif fault.endswith(", applied") or fault.startswith("put: applied"):
                apply()
            world.step()
            raise _PUT_ERRORS[fault]()
        world.step()
        if not done:
            raise client_error(412, "PreconditionFailed", "PutObject")

    def get(self, name: str, read: Callable[[], T], *, body: bool) -> T:
        """One read as the client lives it. What a cut body had brought is never handed on: HTTP tells the length."""
        world = self.world
        world.note(f"> get {name}")
        world.step()
        fault = self._fault(READ_FAULTS if body else READ_FAULTS[:-1])
        found = read()
        world.step()
        if fault is not None:
            raise _READ_ERRORS[fault]()
        return found

    def delete(self, name: str) -> None:
        """One delete; the store forgives a missing object."""
        self.world.note(f"> delete {name}")
        self.world.step()
        fault = self._fault(("delete: applied, the reply is lost",))
        self.things.pop(name, None)
        self.world.step()
        if fault is not None:
            raise ConnectionResetError("cut")

    def find(self, name: str) -> Thing:
        """The object; raises `FileNotFoundError` as s3fs does."""
        if name not in self.things:
            raise client_error(404, "NoSuchKey", "GetObject")
        return self.things[name]

    def _late(self, name: str, apply: Callable[[], bool]) -> None:
        self.world.note(f"= late put of {name}")
        apply()

    def _fault(self, kinds: tuple[str, ...]) -> str | None:
        if self.world.actor is None or self.world.random.random() >= self.fault_rate:
            return None
        fault = self.world.random.choice(kinds)
        self.world.count(fault)
        return fault


def client_error(status: int, code: str, operation: str) -> BaseException:
    """The exception that s3fs raises for an answer of S3."""
    response: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: BaseException = translate_boto_error(ClientError(response, operation))
    return error


def _time_out() -> BaseException:
    return ReadTimeoutError(endpoint_url="sim://")


_PUT_ERRORS: dict[str, Callable[[], BaseException]] = {
    "put: 503, not applied": lambda: client_error(503, "SlowDown", "PutObject"),
    "put: 503, applied": lambda: client_error(503, "ServiceUnavailable", "PutObject"),
    "put: 500, applied": lambda: client_error(500, "InternalError", "PutObject"),
    "put: 409, not applied": lambda: client_error(409, "ConditionalRequestConflict", "PutObject"),
    "put: 409, applied": lambda: client_error(409, "ConditionalRequestConflict", "PutObject"),
    "put: cut before it is applied": lambda: ConnectionResetError("cut"),
    "put: applied, the reply is lost": lambda: ConnectionResetError("cut"),
    "put: time-out, applied much later": _time_out,
}
_READ_ERRORS: dict[str, Callable[[], BaseException]] = {
    "read: 503": lambda: client_error(503, "503", "HeadObject"),
    "read: cut": lambda: ConnectionResetError("cut"),
    "read: time-out": _time_out,
    "read: half the body": lambda: ClientPayloadError("Response payload is not completed"),
}

_bucket: list[Bucket] = []


@contextmanager
def connected_to(bucket: Bucket) -> Iterator[Bucket]:
    """``sim://`` means this bucket while the block runs."""
    fsspec.register_implementation("sim", SimulatedFileSystem, clobber=True)
    _bucket.append(bucket)
    try:
        yield bucket
    finally:
        _bucket.pop()


def virtual_sleep(seconds: float) -> None:
    """The `Store`'s sleep in a simulation; a function of a module, so that a store can still be pickled."""
    _bucket[-1].world.sleep(seconds)


class SimulatedFileSystem(AbstractFileSystem):
    """The client: the calls that `pipeline.storage.Store` makes, request for request."""

    protocol = "sim"
    cachable = False

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        bucket, name = _bucket[-1], self._strip_protocol(path)
        return bucket.get(name, lambda: bucket.find(name).data[start:end], body=True)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        bucket, name = _bucket[-1], self._strip_protocol(path)
        return bucket.get(name, lambda: _described(name, bucket.find(name)), body=False)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        bucket, prefix = _bucket[-1], self._strip_protocol(path).rstrip("/") + "/"

        def read() -> list[dict[str, Any]]:
            found = [name for name in bucket.things if name.startswith(prefix) and "/" not in name[len(prefix) :]]
            if not found:
                raise FileNotFoundError(path)
            return [_described(name, bucket.things[name]) for name in found]

        found = bucket.get(prefix, read, body=True)
        return found if detail else [entry["name"] for entry in found]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        bucket, name = _bucket[-1], self._strip_protocol(path)
        bucket.put(name, lambda: bucket.apply_put(name, value, mode == "create"))

    def put_file(self, lpath: str, rpath: str, callback: Any = None, mode: str = "overwrite", **kwargs: Any) -> None:
        bucket, name, data = _bucket[-1], self._strip_protocol(rpath), Path(lpath).read_bytes()
        if len(data) < bucket.multipart:
            self.pipe_file(rpath, data, mode=mode)
            return
        number = bucket.world.random.getrandbits(32)
        bucket.put(f"{name}?uploads", lambda: True)
        bucket.put(f"{name}?part", lambda: bool(bucket.uploads.setdefault(number, data)))

        def complete() -> bool:
            if number not in bucket.uploads:  # an answer that was lost had ended this upload
                raise client_error(404, "NoSuchUpload", "CompleteMultipartUpload")
            if not bucket.apply_put(name, data, mode == "create"):
                return False
            del bucket.uploads[number]
            return True

        def complete_once_alive() -> bool:
            if bucket.world.actor is None and number not in bucket.uploads:
                return False  # a late repeat of a finished upload finds none, and nobody hears of it
            return complete()

        bucket.put(name, complete_once_alive)

    def rm_file(self, path: str) -> None:
        _bucket[-1].delete(self._strip_protocol(path))

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> SimulatedFile:
        return SimulatedFile(self, path, mode, block_size=4096, cache_type=kwargs.get("cache_type", "readahead"))


class SimulatedFile(AbstractBufferedFile):
    """An object read range by range."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.cat_file(self.path, start, end)
        return data


def _described(name: str, thing: Thing) -> dict[str, Any]:
    return {"name": name, "size": len(thing.data), "type": "file", "LastModified": thing.modified}
