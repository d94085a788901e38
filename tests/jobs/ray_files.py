"""What Ray keeps of a run on disk: its session's files, and which of them hold a word."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ray_directory() -> Iterator[Path]:
    """A place for `RAY_TMPDIR`; short, as Ray's sockets lie below it and their paths may have 107 characters."""
    scratch = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def found_in(root: Path, words: list[str]) -> list[str]:
    """Files below Ray's directory that hold one of the words; what cannot be read (sockets) holds none.

    Raises:
        AssertionError: Ray wrote its logs elsewhere.
    """
    assert len(list(root.rglob("*.log"))) > 3, "Ray wrote its logs elsewhere"
    hits = []
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            hits += [f"{path.relative_to(root)}: {word}" for word in words if word.encode() in data]
    return hits
