"""A file that is hashed while it grows has the digest that it has when it is whole."""

import hashlib
import random
import time
from pathlib import Path

import pytest

from pipeline.followed_file import FollowedFile


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, 5_000_001])
def test_the_digest_is_that_of_the_whole_file(tmp_path: Path, size: int, sync: bool) -> None:
    data, path, rng = random.Random(size).randbytes(size), tmp_path / "data", random.Random(1)
    with FollowedFile(path, sync) as followed:
        time.sleep(0.01)  # The file is not there yet: that is waited for.
        with path.open("wb") as stream:
            start = 0
            while start < size:
                step = rng.randrange(1, 1_000_000)
                stream.write(data[start : start + step])
                start += step
                if rng.random() < 0.3:
                    stream.flush()
                    time.sleep(0.005)
    assert followed.sha256 == hashlib.sha256(data).hexdigest()
    assert followed.size == size


def test_the_writers_exception_comes_through_and_nothing_waits_for_a_file_that_never_came(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no disk today"), FollowedFile(tmp_path / "data", sync=True):
        raise RuntimeError("no disk today")


def test_a_file_that_cannot_be_read_is_an_error_and_no_empty_digest(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with pytest.raises(OSError, match="directory"), FollowedFile(path):
        path.mkdir()


def test_a_file_that_never_came_is_an_error_and_no_empty_digest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), FollowedFile(tmp_path / "data"):
        pass
