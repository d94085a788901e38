"""What an output holds that nobody needs: found, and deleted when told to.

Garbage is only what cannot become part of the dataset any more:

- image files and rejects under the number of a shard that *has* a sound record which does not name them (left by a
  writer that lost). While a shard has no record, everything under its number may be about to be committed: a data
  object without a record is adopted by the next run;
- probes, scratch files (``_run/tmp``), notes of dead drivers, uploads in parts that were never completed.

Names that are none of promptmill's, and the quarantine, are never touched.

Ages are told by the store's own clock: a note of this process is put first, and its modification time is compared with
the objects'. Whatever is not known to be older than the given age stays. A driver's note that is younger than the age
(and than a minute) means that somebody is at work: then nothing is deleted at all. Each object's record is read again
just before it is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actors.errors import UserError
from pipeline.commit import committed_shards, decode_record, record_name
from pipeline.drivers import Noted, modified_seconds, noted
from pipeline.multipart import Upload, abort_upload, open_uploads
from pipeline.record_shape import objects_of, shape_fault, shard_of
from pipeline.storage import Entry, Store
from pipeline.verify import Outline, read_outline

_LEAST_QUIET = 60.0
"""Seconds for which a note is taken for a run at work however small the given age is: three beats."""


@dataclass(frozen=True)
class Garbage:
    """One thing to delete.

    Args:
        kind: ``orphan``, ``probe``, ``scratch``, ``note`` or ``upload``.
        name: the object's name.
        size: in bytes; 0 where the store does not tell.
        age: seconds by the store's clock.
        shard: whose record does not name it; None for what belongs to no shard.
    """

    kind: str
    name: str
    size: int
    age: float
    shard: int | None = None
    upload: Upload | None = None


@dataclass(frozen=True)
class Collected:
    """What was found, whether it was deleted, and whether the store told of unfinished uploads."""

    garbage: list[Garbage]
    deleted: bool
    uploads_known: bool


def collect(store: Store, older_than: float, *, delete: bool = False) -> Collected:
    """Finds garbage that is older than ``older_than`` seconds; deletes it only where ``delete`` is set.

    Raises:
        UserError: no output; a run is at work and ``delete`` is set; or the store tells no times.
        JobError: the store failed for as long as it was tried.
    """
    outline = read_outline(store)
    with noted(store) as notes:
        if notes.now is None:
            raise UserError(f"the store of '{store.public()}' tells no modification times: nothing is known to be old")
        busy = notes.alive(max(older_than, _LEAST_QUIET))
        if busy and delete:
            raise UserError(
                f"{len(busy)} run(s) may be at work on '{store.public()}': a note under _run/drivers is younger than "
                "--older-than; wait for their end, or take a smaller age where you know that they are dead"
            )
        uploads = open_uploads(store)
        garbage = [
            one
            for one in _candidates(store, outline, notes, uploads or [])
            if one.age >= older_than and not (one.kind == "note" and one.name in busy)
        ]
        if delete:
            for one in garbage:
                _delete(store, outline, one)
            _remove_empty_scratch(store)
        return Collected(garbage, delete, uploads is not None)


def _candidates(store: Store, outline: Outline, notes: Noted, uploads: list[Upload]) -> Iterator[Garbage]:
    assert notes.now is not None
    now: float = notes.now

    def garbage(kind: str, entry: Entry, shard: int | None = None) -> Iterator[Garbage]:
        at = modified_seconds(entry.modified)
        if at is not None:
            yield Garbage(kind, entry.name, entry.size, now - at, shard)

    kind = outline.output_format
    recorded = sorted(shard for shard in committed_shards(store) if shard < outline.shards)
    beside: dict[int, list[Entry]] = {}
    for entry in store.list("rejects"):
        shard = shard_of(entry.name, kind)
        if shard is not None:
            beside.setdefault(shard, []).append(entry)
    for shard in recorded if kind == "files" else sorted(beside.keys() & set(recorded)):
        there = beside.get(shard, [])
        if kind == "files":
            there = [*there, *store.list(f"data/shard-{shard:06d}")]
        named = _named(store, outline, shard) if there else None
        for entry in there:
            if named is not None and entry.name not in named and shard_of(entry.name, kind) == shard:
                yield from garbage("orphan", entry, shard)
    for entry in store.list("_run"):
        if entry.name.startswith("_run/probe-"):
            yield from garbage("probe", entry)
    for entry in _scratch_files(store):
        yield from garbage("scratch", entry)
    for name, age in notes.others.items():
        if age is not None:
            yield Garbage("note", name, 0, age)
    for upload in uploads:
        if upload.begun is not None:
            yield Garbage("upload", upload.name, 0, now - upload.begun, upload=upload)


def _named(store: Store, outline: Outline, shard: int) -> set[str] | None:
    """The objects that a shard's record names; None where there is no sound record."""
    raw = store.read(record_name(shard))
    if raw is None:
        return None
    try:
        record = decode_record(raw, store.public(record_name(shard)))
    except UserError:
        return None
    fault = shape_fault(record, shard, outline.output_format)
    if fault is not None or record["fingerprint"] != outline.fingerprint:
        return None
    return {entry["name"] for entry in objects_of(record)}


def _delete(store: Store, outline: Outline, one: Garbage) -> None:
    if one.upload is not None:
        abort_upload(store, one.upload)
        return
    if one.shard is not None:
        named = _named(store, outline, one.shard)
        if named is None or one.name in named:
            return  # its shard was opened, or took it in, since it was found
    store.remove(one.name)


def _scratch_files(store: Store) -> list[Entry]:
    """What killed processes left in ``_run/tmp``: only a local output has any."""
    if not store.local:
        return []
    root = Path(store.root)
    found = []
    for path in sorted((root / "_run/tmp").rglob("*")):
        if path.is_file():
            status = path.stat()
            found.append(Entry(str(path.relative_to(root)), status.st_size, status.st_mtime))
    return found


def _remove_empty_scratch(store: Store) -> None:
    if store.local:
        for path in sorted((Path(store.root) / "_run/tmp").rglob("promptmill-*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
