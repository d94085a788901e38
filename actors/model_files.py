"""Which files of a model directory count, which of them are safe to load, and the hash of their content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from actors.errors import UserError

TRUST = "set allow_unsafe_models: true (--allow-unsafe-models) where you trust its maker"
"""How a person opens the gate; part of each message about a door that is shut."""

SAFE_WEIGHTS = frozenset({".safetensors", ".gguf"})
"""Weight formats that hold numbers alone."""

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
"""Weight formats that may run code when they are read."""

_COMPANIONS = frozenset({".json", ".jinja", ".txt", ".model", ".yaml", ".yml", ".tiktoken", ".spm", ".bpe"})
"""Configs, tokenizers, chat templates. Code, model cards and pictures do not change what a model computes here."""


def relevant(names: Iterable[str], *, allow_unsafe: bool | None) -> list[str]:
    """The names (relative, ``/`` between parts) that make up a model, sorted; hidden files and caches left out."""
    suffixes = SAFE_WEIGHTS | _COMPANIONS | (PICKLES | {".py"} if allow_unsafe else frozenset())
    kept = []
    for name in names:
        path = PurePosixPath(name)
        if not any(part.startswith((".", "__pycache__")) for part in path.parts) and path.suffix.lower() in suffixes:
            kept.append(name)
    return sorted(kept)


def check_weights(names: Iterable[str], where: str, *, allow_unsafe: bool | None) -> None:
    """Refuses a model without weights, or with a part whose only weights are pickles.

    The rule holds for each directory by itself: a diffusers pipeline is a directory of models, and one component
    that comes as a pickle alone would be read as a pickle.

    Raises:
        UserError: names ``where`` and how to mend it.
    """
    safe: set[PurePosixPath] = set()
    pickled: dict[PurePosixPath, str] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if any(part.startswith(".") for part in path.parts):
            continue
        if path.suffix.lower() in SAFE_WEIGHTS:
            safe.add(path.parent)
        elif path.suffix.lower() in PICKLES:
            pickled.setdefault(path.parent, name)
    unsafe = [name for parent, name in pickled.items() if parent not in safe]
    if unsafe and not allow_unsafe:
        raise UserError(
            f"the model {where} has its weights as a pickle ({unsafe[0]}), which can run code when it is read: convert "
            "it to safetensors" + ("" if allow_unsafe is None else f", or {TRUST}")
        )
    if not safe and not pickled:
        raise UserError(
            f"the model {where} has no weights: expected *.safetensors or *.gguf files there or in its sub-directories"
        )


def list_files(root: Path) -> list[str]:
    """All files under ``root`` as relative names; links to files count as files (hub snapshots are made of them)."""
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


def content_hash(root: Path, names: Iterable[str], cache: Path) -> str:
    """SHA-256 (hex) over names and bytes; the same on every machine, wherever the model lies.

    Args:
        root: the model's directory.
        names: the files that count, relative to ``root``.
        cache: remembers each file's hash by (path, size, modification time), so that a start does not read it all.
    """
    whole = hashlib.sha256()
    for name in sorted(names):
        whole.update(f"{name}\0{_file_hash(root / name, cache)}\n".encode())
    return whole.hexdigest()


def _file_hash(path: Path, cache: Path) -> str:
    real = path.resolve()
    stat = real.stat()
    state = [str(real), stat.st_size, stat.st_mtime_ns]
    note = cache / "hashes" / f"{hashlib.sha256(str(real).encode()).hexdigest()[:32]}.json"
    try:
        known = json.loads(note.read_text())
        if known["state"] == state:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no note, or one that a full disk cut short: the file itself is the truth
    with real.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    part = note.with_suffix(f".{os.getpid()}.part")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"state": state, "sha256": digest}))
        part.replace(note)
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
    return digest
