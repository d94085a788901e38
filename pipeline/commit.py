"""How a shard becomes durable: rejects, parts, data object, commit record, each put only if absent, in this order.

"Already there" is neither an error nor a victory: what is there is read back. The same fingerprint and shard are
adopted, and the record is written from *it*; anything else is an error that names both. So one rule covers the retry
whose first reply was lost, the zombie actor and the second driver: the first data object that landed is the shard.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors.errors import JobError, UserError
from pipeline import traces
from pipeline.formats import FORMATS
from pipeline.formats.base import ShardImages
from pipeline.formats.parquet import ParquetFormat, write_parquet
from pipeline.parquet_encryption import ParquetEncryption
from pipeline.shard_file import build_object
from pipeline.storage import Store

FORMAT_VERSION = 1
RECORDS = "_run/shards"
_AT_ONCE = 128


@dataclass(frozen=True)
class ShardResult:
    """What was made of one shard.

    Args:
        shard: its number.
        planned: prompt rows that the plan gives it.
        rows: the output rows without images, in order.
        images: their images.
        rejects: the rejected prompt rows in the shape of a prompt table, with the reject columns.
        counts: further deterministic counts for the record (descriptions by status, tokens).
    """

    shard: int
    planned: int
    rows: pa.Table
    images: ShardImages
    rejects: pa.Table
    counts: dict[str, Any]


@dataclass(frozen=True)
class Committed:
    """A shard's record, and whether another writer's object became the shard."""

    record: dict[str, Any]
    adopted: bool


class ShardCommitter:
    """Makes shards of one run durable. Safe from many threads, processes and drivers at once."""

    def __init__(
        self, store: Store, output_format: str, fingerprint: str, encryption: ParquetEncryption | None = None
    ) -> None:
        self._store, self._fingerprint, self._encryption = store, fingerprint, encryption
        self._format = ParquetFormat(encryption) if encryption else FORMATS[output_format]()

    def commit(self, result: ShardResult) -> Committed:
        """Puts the shard's objects and its record.

        Raises:
            UserError: the shard's name is taken by another run's data; or the place refuses for good.
            JobError: the store failed for as long as it was tried; the shard can be made again.
        """
        data_name = self._format.data_name(result.shard)
        header = self._header(result)
        with self._store.scratch() as scratch:
            if result.rejects.num_rows:
                with traces.span("put rejects", rows=result.rejects.num_rows):
                    header["rejects"] = self._put_rejects(result)
            parts = []
            for part in self._format.parts(result.shard, result.rows, result.images):
                self._store.create(part.name, part.data)
                parts.append(_object(part.name, part.data))
            header["parts"] = parts
            with traces.span("encode", images=result.rows.num_rows):
                made = build_object(
                    lambda sink: self._format.build(sink, result.rows, result.images, header, parts),
                    scratch / "data",
                    sync=self._store.local,
                    expected=result.images.size,
                )
            entry = {"name": data_name, "size": made.size, "sha256": made.sha256}
            with traces.span("put", bytes=made.size):
                created = self._store.create(data_name, made.source)
        if not created:
            header, entry, ours = self._adopt(result.shard, data_name, entry)
        with traces.span("record"):
            record = self._put_record({**header, "data": entry})
        return Committed(record, adopted=not created and not ours)

    def adopt(self, shard: int) -> dict[str, Any] | None:
        """The record of a shard whose data object is there already, written now if it was missing; None without one."""
        data_name = self._format.data_name(shard)
        if self._store.size(data_name) is None:
            return None
        header, entry, _ = self._adopt(shard, data_name, None)
        return self._put_record({**header, "data": entry})

    def _header(self, result: ShardResult) -> dict[str, Any]:
        reasons: dict[str, int] = {}
        for reason in result.rejects["reject_reason"].to_pylist():
            reasons[reason] = reasons.get(reason, 0) + 1
        return {
            "format": FORMAT_VERSION,
            "fingerprint": self._fingerprint,
            "shard": result.shard,
            "rows": result.planned,
            "committed": result.planned - result.rejects.num_rows,
            "rejected": result.rejects.num_rows,
            "images": result.rows.num_rows,
            "reasons": dict(sorted(reasons.items())),
            "rejects": None,
            **result.counts,
        }

    def _put_rejects(self, result: ShardResult) -> dict[str, Any]:
        sink = pa.BufferOutputStream()
        # Whole, whichever columns of the data are encrypted: a reject's reason may quote what is wrong with the row.
        sealed = self._encryption.properties() if self._encryption else None
        with write_parquet(sink, result.rejects.schema, sealed=sealed) as writer:
            writer.write_table(result.rejects)
        data = sink.getvalue().to_pybytes()
        entry = _object("", data)
        # The name holds the digest, so an object that is there already is this very one.
        entry["name"] = f"rejects/shard-{result.shard:06d}-{entry['sha256'][:12]}.parquet"
        self._store.create(entry["name"], data)
        return entry

    def _adopt(self, shard: int, name: str, made: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any], bool]:
        """(header, entry, whether it is byte for byte what we made) of the data object that is there."""
        header = self._format.read_header(self._store, name)
        found = self._store.sha256(name)
        where = f"'{self._store.public(name)}'"
        if header is None or found is None:
            raise UserError(
                f"{where} is there but is no shard of promptmill; move it away, or choose another output.uri"
            )
        theirs = (header.get("fingerprint"), header.get("shard"))
        if theirs != (self._fingerprint, shard):
            raise UserError(
                f"{where} belongs to run {str(theirs[0])[:12]} shard {theirs[1]}, not to this run "
                f"{self._fingerprint[:12]} shard {shard}; choose another output.uri"
            )
        digest, size = found
        return header, {"name": name, "size": size, "sha256": digest}, bool(made and made["sha256"] == digest)

    def _put_record(self, record: dict[str, Any]) -> dict[str, Any]:
        name = record_name(record["shard"])
        data = encode_record(record)
        if self._store.create(name, data):
            return record
        there = self._store.read(name)
        if there is None:
            raise JobError(f"'{self._store.public(name)}' was there and is gone; run again to resume")
        known = decode_record(there, self._store.public(name))
        if (known["fingerprint"], known["shard"]) != (record["fingerprint"], record["shard"]):
            raise UserError(
                f"'{self._store.public(name)}' belongs to run {known['fingerprint'][:12]}, not to this run "
                f"{record['fingerprint'][:12]}; choose another output.uri"
            )
        if known["data"] != record["data"]:
            raise JobError(
                f"'{self._store.public(name)}' describes another object than the one that is there (sha256 "
                f"{known['data']['sha256'][:12]} against {record['data']['sha256'][:12]}): it was changed by hand"
            )
        return known


def record_name(shard: int) -> str:
    """The name of a shard's commit record."""
    return f"{RECORDS}/{shard:06d}.json"


def encode_record(record: dict[str, Any]) -> bytes:
    """The bytes of a record: the same record, the same bytes."""
    return (json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


class NewerFormat(UserError):
    """A record that a later promptmill wrote: nothing is wrong with it, this program is too old for it."""


def decode_record(data: bytes, where: str) -> dict[str, Any]:
    """Reads a record back.

    Raises:
        NewerFormat: it has a later format version than this promptmill knows.
        UserError: it is no record at all.
    """
    try:
        record = json.loads(data)
        version = record["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"'{where}' is no record of promptmill; promptmill verify --repair tells what can be saved"
        ) from error
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise NewerFormat(
            f"'{where}' has format version {version}, and this promptmill knows versions up to {FORMAT_VERSION}; "
            "install the promptmill that wrote it, or a later one"
        )
    if version != FORMAT_VERSION:
        raise UserError(f"'{where}' has no format version that any promptmill wrote; promptmill verify tells more")
    return dict(record)


def committed_shards(store: Store) -> set[int]:
    """The shards that have a commit record: one listing, whatever the number of rows."""
    names = (entry.name.rpartition("/")[2] for entry in store.list(RECORDS))
    return {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()}


def each_record(store: Store, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The records of those shards that have one, in their order, fetched side by side and few at a time.

    A run may have a hundred thousand shards, and a record names each image that lies beside its data object.
    """

    def one(shard: int) -> dict[str, Any] | None:
        data = store.read(record_name(shard))
        return None if data is None else decode_record(data, store.public(record_name(shard)))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for start in range(0, len(shards), _AT_ONCE):
            found = pool.map(one, shards[start : start + _AT_ONCE])
            yield from (record for record in found if record is not None)


def read_records(store: Store, shards: Sequence[int]) -> list[dict[str, Any]]:
    """What `each_record` yields, as a list: for few shards."""
    return list(each_record(store, shards))


def _object(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
