"""``promptmill models``: the node's model cache, from outside a run."""

from __future__ import annotations

import datetime
import hashlib

from actors.cache_limit import Entry, cache_limit, entries, parse_size, shrink
from actors.errors import JobError
from actors.model_cache import default_cache
from actors.model_uri import resolve_model
from jobs.printing import print_rows


def pull(uri: str, *, unsafe: bool, adapter: bool) -> None:
    """Copies a model to this node, as a run would, and prints where it lies."""
    found = resolve_model(uri, allow_unsafe=None if adapter else unsafe, adapter=adapter)
    print_rows([("model", found.uri), ("path", str(found.path)), ("sha256", found.sha256)])


def show(*, check: bool) -> None:
    """Prints what the cache holds, the longest unused last. Raises `JobError` where ``check`` finds damage."""
    cache = default_cache()
    held = entries(cache)
    damaged = []
    for entry in reversed(held):
        fault = _fault(entry) if check else None
        if fault:
            damaged.append(fault)
        used = datetime.datetime.fromtimestamp(entry.used, datetime.UTC).strftime("%Y-%m-%d %H:%M")
        state = "" if not check else f"  {fault or ('whole' if entry.files else 'not checked: has no manifest')}"
        print_rows([(entry.path.name, f"{_size(entry.bytes)}  used {used}  {entry.uri}{state}")])
    total = sum(entry.bytes for entry in held)
    print_rows([("in all", f"{len(held)} models, {_size(total)} of {_size(cache_limit())} in {cache / 'models'}")])
    if damaged:
        raise JobError(f"{len(damaged)} model(s) are damaged, the first: {damaged[0]}; delete its directory")


def prune(*, to: str | None, everything: bool) -> None:
    """Takes away what was used longest ago until the cache is within its limit, or within ``to``."""
    most = 0 if everything else cache_limit() if to is None else parse_size(to)
    gone = shrink(default_cache(), most, grace=0.0 if everything else 3600.0)
    for entry in gone:
        print_rows([(entry.path.name, f"{_size(entry.bytes)}  {entry.uri}")])
    print_rows([("gone", f"{len(gone)} models, {_size(sum(entry.bytes for entry in gone))}")])


def _fault(entry: Entry) -> str | None:
    """Which file is not what was copied; None where all are."""
    for name, told in entry.files.items():
        path = entry.path / name
        if not path.is_file():
            return f"{entry.path.name}: {name} is gone"
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != told["sha256"]:
                return f"{entry.path.name}: {name} has changed"
    return None


def _size(count: int) -> str:
    power = next((power for power in (3, 2, 1) if count >= 1024**power), 0)
    return f"{count / 1024**power:.{power and 1}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"
