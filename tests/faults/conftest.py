"""The fault tests use the jobs' tiny models, and a small disk."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import s3fs.core

from tests.jobs.conftest import tiny_gan, tiny_llm

__all__ = ["tiny_gan", "tiny_llm"]


@pytest.fixture
def hasty_s3fs(monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs waits a hundredth of its time before it asks again: hundreds of faults are half a minute of waiting."""
    hasty = {**vars(asyncio), "sleep": lambda seconds: asyncio.sleep(seconds / 100)}
    monkeypatch.setattr(s3fs.core, "asyncio", SimpleNamespace(**hasty))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a MiB. Where nobody may mount, the test fails and says so: it must not pass unseen."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", place], check=False).returncode == 0
    if not mounted:
        pytest.fail("this test mounts a small tmpfs: run it as root, or in a container with CAP_SYS_ADMIN")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
