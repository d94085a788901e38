"""What a dataset is, byte by byte and row by row, told by the files themselves and not by the product's own code."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pyarrow.parquet as pq

_NOTES = ("_run/timings/", "_run/drivers/", "_run/tmp/", "report.html")


@dataclass(frozen=True)
class Losses:
    """Rows of the prompt table that a dataset lacks, and rows that it has more than once."""

    lost: int
    doubled: int


def contents(uri: str, **options: object) -> dict[str, bytes]:
    """Every object of an output but the notes on how the run went, by name."""
    fs, root = fsspec.core.url_to_fs(uri, **options)
    fs.invalidate_cache()
    found = {path[len(root.rstrip("/")) + 1 :]: path for path in fs.find(root)}
    return {name: fs.cat_file(path) for name, path in found.items() if not name.startswith(_NOTES)}


def digests(root: Path) -> dict[str, str]:
    """The same of a local output, as SHA-256."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents(str(root)).items()}


def count_losses(root: Path, planned: Iterable[str]) -> Losses:
    """Compares the prompts in data and rejects of a local output (one image a prompt) with those of its table."""
    found: Counter[str] = Counter()
    for part in ("data", "rejects"):
        for path in sorted((root / part).glob("*.parquet")):
            found.update(pq.read_table(path, columns=["prompt"])["prompt"].to_pylist())
    wanted = Counter(planned)
    return Losses((wanted - found).total(), (found - wanted).total())


def records(root: Path) -> int:
    """How many shards have a commit record."""
    return len(list(root.glob("_run/shards/*.json")))
