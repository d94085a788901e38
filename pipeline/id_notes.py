"""Which shards may hold an image id: a few bytes an image in the note beside each shard, so that one shard is read.

Ids follow from the prompt table, not from the place in the output: without notes, shards are read one after another.
A note only says where to look first: a wrong or missing one costs time and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from actors.marks import produce_id
from pipeline.commit import each_record
from pipeline.read_output import OutputRow, find_row
from pipeline.storage import Store
from pipeline.timings import timing_name

_WIDTH = 4  # bytes: of a million images, one in 4,000 lookups opens a second shard


def id_note(ids: Sequence[str]) -> str:
    """The note's value for a shard with these image ids: base64 of their hashes, sorted."""
    hashes = {_hash(name) for image_id in ids for name in (image_id, produce_id(image_id))}
    return base64.b64encode(b"".join(sorted(hashes))).decode()


def find_image(store: Store, output_format: str, shards: Sequence[int], image_id: str) -> OutputRow | None:
    """The row with this id in one of the committed ``shards``, or None.

    Reads the shards whose note has the id's hash, as a rule one; then those without a note (an earlier promptmill made
    them, or another run's object was adopted), and last all others: no id is denied on the word of a note.

    Raises:
        JobError: an object that a record names cannot be read.
    """
    wanted = _hash(image_id)
    with ThreadPoolExecutor(16) as pool:
        notes = list(zip(shards, pool.map(lambda shard: _noted(store, shard), shards), strict=True))
    likely = [shard for shard, hashes in notes if hashes is not None and wanted in hashes]
    unknown = [shard for shard, hashes in notes if hashes is None]
    others = [shard for shard, hashes in notes if hashes is not None and wanted not in hashes]
    for part in (likely, unknown, others):
        row = find_row(store, output_format, each_record(store, part), image_id) if part else None
        if row is not None:
            return row
    return None


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_WIDTH).digest()


def _noted(store: Store, shard: int) -> set[bytes] | None:
    data = store.read(timing_name(shard))
    try:
        note: Any = json.loads(data or b"null")
        packed = base64.b64decode(note["ids"])
    except (ValueError, TypeError, KeyError):
        return None
    return {packed[start : start + _WIDTH] for start in range(0, len(packed), _WIDTH)}
