"""Damaged objects out of the way: copied under ``_run/quarantine``, read back, and only then deleted where they were.

Nothing is lost, and nothing is believed: the copy's own digest is compared with what was read. The record of a shard
goes last, so that a repair that is cut off leaves a record without its data, which the next `verify` finds, and never
damaged data without a record, which the next run would adopt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.errors import JobError
from pipeline.commit import record_name
from pipeline.formats import FORMATS
from pipeline.record_shape import digest_in_name
from pipeline.storage import Store

QUARANTINE = "_run/quarantine"


def quarantine(store: Store, name: str) -> str | None:
    """Moves one object away.

    Returns:
        The copy's name, ``_run/quarantine/DIGEST/NAME``; None where there was no such object.

    Raises:
        JobError: the copy does not read back as it was written; the object stays where it is.
    """
    with store.scratch() as scratch:
        # On local disk the copy is a hard link to the very file.
        source = Path(store.path(name)) if store.local else scratch / "object"
        found = store.sha256(name, None if store.local else source)
        if found is None:
            return None
        target = f"{QUARANTINE}/{found[0][:12]}/{name}"
        store.create(target, source)
    if store.sha256(target) != found:
        raise JobError(
            f"the copy '{store.public(target)}' does not read back as '{store.public(name)}' was; nothing was deleted"
        )
    store.remove(name)
    return target


def reopen(store: Store, output_format: str, shard: int, rejects: Sequence[str]) -> list[str]:
    """Frees the names of a shard that is to be made again: what is spoilt, its data object, and last its record.

    A part or rejects object whose bytes are what the digest in its name says stays: the new try finds it made.

    Args:
        rejects: the rejects objects that there are under the shard's number.

    Returns:
        The copies' names.
    """
    data = FORMATS[output_format]().data_name(shard)
    beside = [*rejects]
    if output_format == "files":
        beside += [entry.name for entry in store.list(data.rpartition("/")[0])]
    spoilt = []
    for name in beside:
        digest = digest_in_name(name)
        found = store.sha256(name) if digest else None
        if found is not None and not found[0].startswith(digest or ""):
            spoilt.append(name)
    moved = [quarantine(store, name) for name in (*spoilt, data, record_name(shard))]
    return [name for name in moved if name is not None]
