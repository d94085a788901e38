"""What a node's model cache holds, and which of it goes when room is needed: what was used longest ago.

The modification time of an entry's directory is the time of its last use (`actors.model_cache.made_once`). What was
used within the last hour stays whatever the limit says: a process may be about to open it. What is open already may go,
since a deleted file lives on for whoever maps it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from actors.errors import UserError

MANIFEST = ".promptmill.json"
"""In a copied model: where it came from, and size and SHA-256 of each file. Hidden, so it is no part of the model."""
LIMIT = "PROMPTMILL_CACHE_LIMIT"
_DEFAULT_LIMIT = "100G"
_GRACE = 3600.0
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Entry:
    """One model in the cache: ``used`` in seconds since the epoch, ``bytes`` on disk, ``uri`` where it came from."""

    path: Path
    uri: str
    bytes: int
    used: float
    files: dict[str, dict[str, Any]]


def parse_size(text: str) -> int:
    """Bytes of ``500M``, ``1.5G``, ``2T``, ``0``. Raises `UserError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UserError(f"'{text[:40]}' is no size: write 500M, 20G or 1T")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def cache_limit() -> int:
    """Bytes that the cache may hold: ``PROMPTMILL_CACHE_LIMIT``, or 100 GiB."""
    return parse_size(os.environ.get(LIMIT, "").strip() or _DEFAULT_LIMIT)


def entries(cache: Path) -> list[Entry]:
    """What the cache holds, the longest unused first."""
    found = []
    for path in _directories(cache):
        with contextlib.suppress(FileNotFoundError):  # another process took it away
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            told = _manifest(path)
            uri = str(told.get("uri") or ("converted from GGUF" if path.name.startswith("gguf-") else "unknown"))
            found.append(Entry(path, uri, size, path.stat().st_mtime, told.get("files") or {}))
    return sorted(found, key=lambda entry: entry.used)


def make_room(cache: Path, need: int, shown: str) -> None:
    """Takes old entries away until ``need`` more bytes are within the limit.

    Raises:
        UserError: the disk itself has no room for it.
    """
    shrink(cache, max(0, cache_limit() - need))
    free = shutil.disk_usage(cache).free
    if need > free:
        raise UserError(
            f"the model {shown} needs {need / 2**30:.1f} GiB, and {cache} has {free / 2**30:.1f} GiB left: point "
            "PROMPTMILL_CACHE at a larger disk, or make room with promptmill models prune"
        )


def shrink(cache: Path, most: int, *, grace: float = _GRACE) -> list[Entry]:
    """Takes the longest unused entries away until the cache holds at most ``most`` bytes; returns what went.

    Args:
        grace: seconds since its last use within which an entry stays all the same.
    """
    held = entries(cache)
    total, gone = sum(entry.bytes for entry in held), []
    for entry in held:
        if total <= most:
            break
        if _take_away(entry.path, grace):
            gone.append(entry)
            total -= entry.bytes
    return gone


def _take_away(path: Path, grace: float) -> bool:
    lock = FileLock(f"{path}.lock", timeout=0)
    try:
        with lock:
            if time.time() - path.stat().st_mtime < grace:
                return False
            away = path.with_name(f".{path.name}.gone")
            path.replace(away)
            shutil.rmtree(away, ignore_errors=True)
            return True
    except (Timeout, OSError):
        return False  # somebody makes it anew, or it is gone already


def _directories(cache: Path) -> Iterator[Path]:
    root = cache / "models"
    if root.is_dir():
        yield from (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _manifest(path: Path) -> dict[str, Any]:
    try:
        told = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
