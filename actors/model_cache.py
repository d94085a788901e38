"""The node's cache of what is costly to make once: copied models, converted weights, content hashes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from actors.errors import UserError


def default_cache() -> Path:
    """``PROMPTMILL_CACHE``, or ``~/.cache/promptmill``."""
    named = os.environ.get("PROMPTMILL_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "promptmill"


def made_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """The directory ``target``, filled by whoever comes first; the others on this node wait and take it over.

    Args:
        target: where the directory belongs; its name must identify the content, for what is there is never renewed.
        fill: writes the content into an empty directory. It is renamed into place when ``fill`` returns, so a process
            that dies half-way leaves nothing that looks finished.

    Raises:
        UserError: the cache cannot be written.
    """
    if _use(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(target) + ".lock")
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"the model cache {target.parent} cannot be written ({error.strerror}): "
            "point PROMPTMILL_CACHE at a directory that can"
        ) from error
    try:
        if not _use(target):
            _fill_and_rename(target, fill)
    finally:
        lock.release()
    return target


def _use(target: Path) -> bool:
    """Whether the directory is there; its modification time becomes now, the time of its last use."""
    try:
        os.utime(target)
    except FileNotFoundError:
        return False
    except OSError:
        return target.is_dir()  # a cache that others fill and that may only be read
    return True


def _fill_and_rename(target: Path, fill: Callable[[Path], None]) -> None:
    # The lock is ours, so any such leftover belongs to a process that died.
    for leftover in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        fill(part)
        part.chmod(0o755)
        part.replace(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
