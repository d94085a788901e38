"""Objects as files of a local disk: complete and synced before they get their name, and never over another one.

A name is given by a hard link, which fails where it is taken; a rename would replace what is there.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalDisk:
    """The files under ``root``; its scratch files lie on the same volume, or no link could be made."""

    root: Path

    def scratch(self) -> Path:
        """The directory of scratch files."""
        path = self.root / "_run/tmp"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def create(self, name: str, source: bytes | Path) -> bool:
        """Puts a file under a name that must be free; False where it is taken. Raises `OSError`."""
        target = self._target(name)
        with self._synced(source) as file:
            try:
                os.link(file, target)
            except FileExistsError:
                return False
            directory = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Puts a file whatever is there. Raises `OSError`."""
        target = self._target(name)
        with self._synced(data) as file:
            file.replace(target)

    def remove_directory(self, name: str) -> None:
        """Takes a directory away where it is empty."""
        with contextlib.suppress(OSError):
            (self.root / name).rmdir()

    def _target(self, name: str) -> Path:
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    @contextlib.contextmanager
    def _synced(self, source: bytes | Path) -> Iterator[Path]:
        """The source as a synced file on the disk; one that was made of bytes goes away again."""
        if isinstance(source, Path):
            with source.open("rb+") as stream:
                os.fsync(stream.fileno())
            yield source
            return
        temporary = self.scratch() / uuid.uuid4().hex
        try:
            with temporary.open("wb") as stream:
                stream.write(source)
                stream.flush()
                os.fsync(stream.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
