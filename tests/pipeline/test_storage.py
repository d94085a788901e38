"""The store's promises on local disk; the same on S3 in test_object_store.py."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import pytest

from actors.errors import JobError, UserError
from pipeline.storage import Store
from pipeline.storage_errors import public_uri


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"), attempts=3, max_backoff=0.01)


def test_first_create_wins_and_the_second_changes_nothing(store: Store, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"second")
    assert store.create("data/x", b"first")
    assert not store.create("data/x", big)
    assert store.read("data/x") == b"first"
    assert store.size("data/x") == 5
    assert [entry.name for entry in store.list("data")] == ["data/x"]


def test_nothing_half_written_is_ever_listed(store: Store) -> None:
    store.create("data/x", b"1")
    store.replace("README.md", b"2")
    left = [p for p in Path(store.root).rglob("*") if p.is_file()]
    assert sorted(p.name for p in left) == ["README.md", "x"]


def test_absent_things_are_none_or_empty(store: Store) -> None:
    assert store.read("no") is None
    assert store.size("no") is None
    assert store.sha256("no") is None
    assert store.list("no") == []
    store.remove("no")


def test_a_store_travels_to_another_process(store: Store) -> None:
    store.create("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"


class Flaky:
    """Raises the given errors in turn from one method of a file system, then works."""

    def __init__(self, store: Store, method: str, errors: list[BaseException], *, apply_first: bool = False) -> None:
        self.calls, self._errors, self._apply = 0, errors, apply_first
        self._real = getattr(store.fs, method)
        setattr(store.fs, method, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self._errors:
            if self._apply:
                self._real(*args, **kwargs)
            raise self._errors.pop(0)
        return self._real(*args, **kwargs)


@pytest.fixture
def memory(tmp_path: Path) -> Store:
    """A store without the local shortcuts, whose file system a test may break."""
    store = Store("memory://bucket/" + tmp_path.name, attempts=4, max_backoff=0.01, unconditional=True)
    store.fs = type(store.fs)(skip_instance_cache=True)
    return store


def test_transient_errors_are_retried(memory: Store) -> None:
    flaky = Flaky(memory, "pipe_file", [ConnectionResetError("cut"), TimeoutError(), OSError(errno.EBUSY, "SlowDown")])
    assert memory.create("a", b"1")
    assert flaky.calls == 4


def test_transient_errors_end_after_the_attempts_as_a_failure_that_says_to_resume(memory: Store) -> None:
    Flaky(memory, "pipe_file", [ConnectionResetError("cut")] * 9)
    with pytest.raises(JobError, match="after 4 tries; run again to resume"):
        memory.create("a", b"1")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left"), "disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the quota is used up"),
        (PermissionError("Forbidden"), "access denied"),
        (FileNotFoundError("no bucket"), "no such"),
        (OSError(errno.EROFS, "ro"), "read-only"),
    ],
)
def test_permanent_errors_end_at_once_in_one_sentence(memory: Store, error: OSError, says: str) -> None:
    flaky = Flaky(memory, "pipe_file", [error])
    with pytest.raises(UserError, match=says) as caught:
        memory.create("a", b"1")
    assert flaky.calls == 1
    assert "\n" not in str(caught.value)


def test_a_lost_reply_is_settled_by_asking_again() -> None:
    store = Store("memory://lost", attempts=4, max_backoff=0.01)
    store.fs = type(store.fs)(skip_instance_cache=True)
    pipe = store.fs.pipe_file

    def conditional(path: str, data: bytes, mode: str = "overwrite") -> None:
        if mode == "create" and store.fs.exists(path):
            raise FileExistsError(path)
        pipe(path, data)

    store.fs.pipe_file = conditional
    flaky = Flaky(store, "pipe_file", [ConnectionResetError("reply lost")], apply_first=True)
    assert not store.create("a", b"mine"), "taken, by this very call: the caller reads back"
    assert flaky.calls == 2
    assert store.read("a") == b"mine"


def test_probe_refuses_a_store_that_ignores_the_condition() -> None:
    store = Store("memory://probe")
    store.fs = type(store.fs)(skip_instance_cache=True)
    pipe = store.fs.pipe_file
    store.fs.pipe_file = lambda path, data, mode="overwrite": pipe(path, data)
    with pytest.raises(UserError, match=r"storage\.unconditional=true"):
        store.probe()
    assert store.list("_run") == []


def test_secrets_of_a_uri_are_not_shown() -> None:
    assert public_uri("s3://key:secret@bucket/x?token=abc") == "s3://bucket/x"
    with pytest.raises(UserError) as caught:
        Store("nosuch://user:hunter2@host/x")
    assert "hunter2" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a directory"):
        Store(str(tmp_path / "file" / "out")).probe()
