"""A shard's object has the same bytes and digest wherever it is built; what is large never lies in memory whole."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.shard_file import build_object

DATA = b"picture" * 1000


def _write(sink: pa.NativeFile) -> None:
    for start in range(0, len(DATA), 999):
        sink.write(DATA[start : start + 999])


@pytest.mark.parametrize(
    ("sync", "expected", "on_disk"),
    [(False, 7000, False), (False, None, True), (False, 10**9, True), (True, 7000, True)],
)
def test_small_objects_that_leave_this_machine_are_built_in_memory(tmp_path, sync, expected, on_disk):
    made = build_object(_write, tmp_path / "data", sync=sync, expected=expected)
    assert isinstance(made.source, Path) == on_disk == (tmp_path / "data").exists()
    assert (made.source.read_bytes() if isinstance(made.source, Path) else made.source) == DATA
    assert (made.size, made.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.mark.parametrize("expected", [7000, None])
def test_what_the_writer_raises_comes_through(tmp_path, expected):
    def fail(sink: pa.NativeFile) -> None:
        sink.write(b"half")
        raise RuntimeError("no picture 3")

    with pytest.raises(RuntimeError, match="no picture 3"):
        build_object(fail, tmp_path / "data", sync=False, expected=expected)
