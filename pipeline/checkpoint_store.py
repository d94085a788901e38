"""Checkpoints on any fsspec store: each under a name of its own, its manifest written last, verified when read.

    checkpoints/play-00001200-3f9ac2d1/generator.safetensors ...
    checkpoints/play-00001200-3f9ac2d1/manifest.json      {"order": .., "score": .., "files": {name: {size, sha256}}}

A directory without its manifest, or whose files are not those of the manifest, is torn: it is passed over, and the next
older one is taken. Names are never used twice, so a writer that died half way cannot spoil what its successor writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.errors import JobError
from pipeline.inert_text import visible
from pipeline.storage import Store

MANIFEST = "manifest.json"
_ROOT = "checkpoints"


@dataclass(frozen=True)
class FileDigest:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class SavedCheckpoint:
    """A whole checkpoint: ``order`` sorts by age (number of the phase, step), ``score`` says how good (or None)."""

    name: str
    order: tuple[int, int]
    score: float | None
    files: dict[str, FileDigest]


class CheckpointStore:
    """The checkpoints under one output.

    Args:
        store: the output's root.
        keep_last: newest checkpoints kept.
        note: told in a sentence of each torn checkpoint that is passed over.
    """

    def __init__(self, store: Store, keep_last: int, note: Callable[[str], None]) -> None:
        self._store, self._keep_last, self._note = store, keep_last, note

    def put(self, directory: Path, phase: str, order: tuple[int, int], score: float | None) -> SavedCheckpoint:
        """Uploads the files of a directory, then the manifest; then deletes what is neither new nor best.

        The directory is one of `Store.scratch`: on local disk its files become the store's own by a hard link.
        """
        saved = SavedCheckpoint(
            f"{_ROOT}/{phase}-{order[1]:08d}-{uuid.uuid4().hex[:8]}",
            order,
            score,
            {path.name: digest_file(path) for path in sorted(directory.iterdir()) if path.is_file()},
        )
        for name in saved.files:
            if not self._store.create(f"{saved.name}/{name}", directory / name):
                self._same(saved, name)
        body = {**asdict(saved), "name": saved.name.rpartition("/")[2]}
        self._store.create(f"{saved.name}/{MANIFEST}", json.dumps(body, indent=1).encode())
        self._prune()
        return saved

    def latest(self, target: Path) -> SavedCheckpoint | None:
        """Copies the newest whole checkpoint into ``target``, verified byte for byte; None where there is none."""
        return self.fetch(target, "newest")

    def fetch(self, target: Path, which: str) -> SavedCheckpoint | None:
        """The same for the ``newest``, the ``best`` (by score; the newest where none has one), or one by name."""
        for saved in self.known(which):
            if self._fetch(saved, target):
                return saved
            self._tell(f"the checkpoint '{self._store.public(saved.name)}' is torn; an older one is taken")
        return None

    def known(self, which: str) -> list[SavedCheckpoint]:
        """Checkpoints with a manifest, the one that ``which`` means first; their files are not looked at."""
        found = sorted(self._whole(), key=lambda one: one.order, reverse=True)
        if which == "best":
            found.sort(key=lambda one: -math.inf if one.score is None else one.score, reverse=True)
        elif which != "newest":
            found = [one for one in found if one.name.rpartition("/")[2] == which]
        return found

    def clear(self) -> None:
        """Deletes all checkpoints."""
        for name in self._names():
            self._delete(name)

    def _tell(self, text: str) -> None:
        self._note(visible(text))  # what lies in a store may have any name

    def _names(self) -> tuple[str, ...]:
        return self._store.directories(_ROOT)

    def _whole(self) -> list[SavedCheckpoint]:
        found = []
        for name in self._names():
            body = self._store.read(f"{name}/{MANIFEST}")
            if body is None:
                continue
            try:
                told = json.loads(body)
                files = {_bare(key): FileDigest(**value) for key, value in told["files"].items()}
                found.append(SavedCheckpoint(name, (told["order"][0], told["order"][1]), told["score"], files))
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
                self._tell(f"the manifest of '{self._store.public(name)}' cannot be read; that checkpoint is left out")
        return found

    def _fetch(self, saved: SavedCheckpoint, target: Path) -> bool:
        target.mkdir(parents=True, exist_ok=True)
        for name, wanted in saved.files.items():
            data = self._store.read(f"{saved.name}/{name}")
            if data is None or FileDigest(len(data), hashlib.sha256(data).hexdigest()) != wanted:
                return False
            (target / name).write_bytes(data)
        return True

    def _same(self, saved: SavedCheckpoint, name: str) -> None:
        # The name is ours alone: "taken" means that an earlier try of this very put landed.
        found = self._store.sha256(f"{saved.name}/{name}")
        wanted = saved.files[name]
        if found != (wanted.sha256, wanted.size):
            raise JobError(f"'{self._store.public(saved.name)}/{name}' is not what was written there")

    def _prune(self) -> None:
        whole = sorted(self._whole(), key=lambda one: one.order)
        kept = {saved.name for saved in whole[-self._keep_last :]}
        scored = [saved for saved in whole if saved.score is not None]
        if scored:
            kept.add(max(scored, key=lambda one: (one.score or 0.0, one.order)).name)
        for saved in whole:
            if saved.name not in kept:
                self._delete(saved.name)

    def _delete(self, name: str) -> None:
        # The manifest first: a deletion that breaks off leaves a torn checkpoint, never a whole one with holes.
        self._store.remove(f"{name}/{MANIFEST}")
        for entry in self._store.list(name):
            self._store.remove(entry.name)
        self._store.remove_directory(name)


def _bare(name: str) -> str:
    """A file's name as it stands in a manifest; it is written under that name, and so must not lead elsewhere."""
    if not name.endswith((".safetensors", ".json")) or "/" in name or "\\" in name:
        raise ValueError(name)
    return name


def split_checkpoint_uri(uri: str) -> tuple[str, str | None]:
    """``RUN/checkpoints/NAME`` -> (RUN, NAME), and ``RUN`` -> (RUN, None)."""
    root, mark, name = uri.rstrip("/").partition(f"/{_ROOT}/")
    return root, name if mark else None


def digest_file(path: Path) -> FileDigest:
    """Size and SHA-256 of a local file."""
    with path.open("rb") as stream:
        return FileDigest(path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())
