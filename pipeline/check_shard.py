"""One shard checked: its record against the plan, against the header inside its data object, and against each object.

What is wrong decides what mends it:

- the data object or a part or the rejects is gone or not as recorded: the shard is made again (``remake``);
- only the record is unusable, and the data is whole by all that it says of itself: the record is written again from
  the data (``rewrite``). A data object has no digest of itself, so it counts as whole only when every row and every
  image in it reads; where it does not, the shard is made again;
- an object that no record names does no harm by itself (``collect``: `promptmill gc`, once it is old).

A record whose digest alone differs from the data's is taken at its word, for data is large and records are small; the
shard made again has the recorded bytes either way.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import UserError
from pipeline.commit import NewerFormat, decode_record, record_name
from pipeline.finding import Finding, Mend, ShardCheck
from pipeline.formats import FORMATS
from pipeline.record_shape import counts_fault, shape_fault
from pipeline.storage import Store
from pipeline.walk_shard import Unreadable, WalkedRow, count_rows, image_fault, reasons_in, walk_rows

_SEALED = "its data object is encrypted: verify again with the key to learn more"
_SHOWN = 20
"""Damaged images of one shard that are told one by one."""


class ShardChecker:
    """Checks shards of one run, from many threads.

    Args:
        fingerprint: of the run.
        deep: decode every image and read its marks.
        opens: False where rows are encrypted and the key is not here: then sizes and digests alone are compared.
        take_id: gets (shard, row, image id) of each row.
    """

    def __init__(
        self,
        store: Store,
        output_format: str,
        fingerprint: str,
        *,
        deep: bool,
        opens: bool = True,
        take_id: Callable[[int, int, str], None] = lambda shard, row, image_id: None,
    ) -> None:
        self._store, self._kind, self._fingerprint = store, output_format, fingerprint
        self._format = FORMATS[output_format]()
        self._deep, self._opens, self._take_id = deep, opens, take_id

    def check(self, shard: int, planned: int | None) -> ShardCheck:
        """Checks one shard.

        Args:
            planned: rows that the plan gives it; None where the plan has no such shard.

        Raises:
            NewerFormat: its record has a later format version.
            UserError, JobError: the store refuses, or failed for as long as it was tried.
        """
        found, name = ShardCheck(shard), record_name(shard)
        raw = self._store.read(name)
        found.recorded = raw is not None
        if planned is None:
            found.findings.append(
                Finding("foreign", shard, name, "the plan has no such shard; move its objects away by hand", "none")
            )
            return found
        fault = None
        if raw is not None:
            found.record, fault = self._read_record(raw, shard, planned)
        with self._fetched(self._format.data_name(shard)) as data:
            if raw is None:
                self._check_uncommitted(found, planned, data)
            elif found.record is None:
                self._check_by_header(found, planned, data, fault or "")
            else:
                self._check_recorded(found, data)
        return found

    def _read_record(self, raw: bytes, shard: int, planned: int) -> tuple[dict[str, Any] | None, str | None]:
        """(the record, None), or (None, why it is none)."""
        try:
            record = decode_record(raw, self._store.public(record_name(shard)))
        except NewerFormat:
            raise
        except UserError:
            return None, "it is no record"
        fault = shape_fault(record, shard, self._kind)
        if fault is None and record["fingerprint"] != self._fingerprint:
            fault = f"it belongs to run {record['fingerprint'][:12]}"
        fault = fault or counts_fault(record, planned)
        return (record, None) if fault is None else (None, fault)

    def _check_recorded(self, found: ShardCheck, data: _Fetched | None) -> None:
        """The record is well-formed and adds up: do the objects agree?"""
        record = found.record
        assert record is not None
        entry = record["data"]
        if data is None:
            self._say(found, "missing", entry["name"], "it is gone; its record names it", "remake")
        elif (data.sha256, data.size) != (entry["sha256"], entry["size"]):
            self._say(found, "damaged", entry["name"], _differs(entry, data.sha256, data.size), "remake")
        else:
            found.objects, found.bytes = 1, data.size
            if not self._opens:
                self._check_rejects(found, record)
                return
            header = data.header(self._format.read_header)
            if header != {key: value for key, value in record.items() if key != "data"}:
                self._check_by_header(found, record["rows"], data, "it differs from what its data object says")
                return
            self._check_rows(found, record, data, deep=self._deep)
        self._check_rejects(found, record)

    def _check_by_header(self, found: ShardCheck, planned: int, data: _Fetched | None, fault: str) -> None:
        """The record does not hold: the data object must speak for itself."""
        found.record, name = None, record_name(found.shard)
        if data is not None and not self._opens:
            self._say(found, "record_damaged", name, f"{fault}; {_SEALED}", "none")
            return
        whole = data is not None and self._is_whole(found, planned, data)
        if whole:
            self._say(found, "record_damaged", name, f"{fault}; its data object is whole", "rewrite")
        else:
            self._say(found, "record_damaged", name, f"{fault}, and its data object is not whole either", "remake")

    def _check_uncommitted(self, found: ShardCheck, planned: int, data: _Fetched | None) -> None:
        name = self._format.data_name(found.shard)
        if data is None:
            self._say(found, "gap", record_name(found.shard), "planned and not committed", "run")
        elif not self._opens:
            self._say(found, "uncommitted", name, f"not committed yet; {_SEALED}", "none")
        elif self._is_whole(found, planned, data):
            self._say(found, "uncommitted", name, "whole, but not committed yet: the next run adopts it", "run")
        else:
            self._say(found, "gap", record_name(found.shard), "not committed, and what is there is damaged", "remake")

    def _is_whole(self, found: ShardCheck, planned: int, data: _Fetched) -> bool:
        """Whether the data object is a shard of this run by all that it says of itself; says what is wrong."""
        name = self._format.data_name(found.shard)
        header = data.header(self._format.read_header)
        fault = shape_fault(header, found.shard, self._kind, header=True)
        if fault is None and header is not None:
            fault = counts_fault(header, planned)
            if header["fingerprint"] != self._fingerprint:
                fault = f"it belongs to run {header['fingerprint'][:12]}"
        if fault is not None or header is None:
            self._say(found, "damaged", name, f"its header does not hold: {fault}", "remake")
            return False
        before = len(found.findings)
        self._check_rows(found, header, data, deep=True)
        self._check_rejects(found, header)
        return len(found.findings) == before

    def _check_rows(self, found: ShardCheck, header: dict[str, Any], data: _Fetched, *, deep: bool) -> None:
        """Row count, ids, parts; with ``deep`` each image."""
        name, count, faults = self._format.data_name(found.shard), 0, 0
        parts = _PartReader(self._store, header["parts"], found)
        images = deep or bool(header["parts"])
        try:
            for row in walk_rows(data.path, self._kind, found.shard, parts.read, images=images):
                self._take_id(found.shard, count, row.id)
                fault = _row_fault(row, deep=deep) if images else None
                if fault is not None:
                    faults += 1
                    if faults <= _SHOWN:
                        self._say(found, "image", parts.name(count) or name, f"row {count}: {fault}", "remake")
                count += 1
        except Unreadable as error:
            self._say(found, "damaged", name, str(error), "remake")
            return
        if faults > _SHOWN:
            self._say(found, "image", name, f"{faults - _SHOWN} more rows like these", "remake")
        if count != header["images"]:
            self._say(found, "rows", name, f"it has {count} rows, its record counts {header['images']}", "remake")

    def _check_rejects(self, found: ShardCheck, header: dict[str, Any]) -> None:
        entry = header["rejects"]
        if entry is None:
            return
        with self._fetched(entry["name"]) as there:
            if there is None:
                self._say(found, "missing", entry["name"], "it is gone; its record names it", "remake")
                return
            found.objects, found.bytes = found.objects + 1, found.bytes + there.size
            fault = None
            if (there.sha256, there.size) != (entry["sha256"], entry["size"]):
                fault = _differs(entry, there.sha256, there.size)
            elif self._opens:
                try:
                    if count_rows(there.path) != header["rejected"] or reasons_in(there.path) != header["reasons"]:
                        fault = f"its rows are not the {header['rejected']} rejected ones that its record counts"
                except Unreadable as error:
                    fault = str(error)
            if fault is not None:
                self._say(found, "damaged", entry["name"], fault, "remake")

    @contextlib.contextmanager
    def _fetched(self, name: str) -> Iterator[_Fetched | None]:
        """An object as a local file with its digest: in place on local disk, else copied in one download."""
        if self._store.local:
            found = self._store.sha256(name)
            yield None if found is None else _Fetched(Path(self._store.path(name)), found[0], found[1])
            return
        with self._store.scratch() as scratch:
            target = scratch / name.rpartition("/")[2]
            found = self._store.sha256(name, into=target)
            yield None if found is None else _Fetched(target, found[0], found[1])

    def _say(self, found: ShardCheck, kind: str, name: str, detail: str, mend: Mend) -> None:
        found.findings.append(Finding(kind, found.shard, name, detail, mend))


@dataclass(frozen=True)
class _Fetched:
    path: Path
    sha256: str
    size: int

    def header(self, read: Callable[[Store, str], dict[str, Any] | None]) -> dict[str, Any] | None:
        try:
            return read(Store(str(self.path.parent)), self.path.name)
        except Exception:  # noqa: BLE001 - a damaged file brings up any error of Arrow's, tarfile's or JSON's
            return None


class _PartFault(Exception):
    """A part is gone or damaged."""


class _PartReader:
    """Reads the parts of one shard and compares each with its entry; those that are sound are counted."""

    def __init__(self, store: Store, parts: list[dict[str, Any]], found: ShardCheck) -> None:
        self._store, self._parts, self._found = store, parts, found

    def name(self, number: int) -> str | None:
        """The object of a part; None where there is none."""
        return self._parts[number]["name"] if number < len(self._parts) else None

    def read(self, number: int, file_name: str) -> bytes:
        """The bytes of part ``number``, which the data object calls ``file_name``; raises `_PartFault`."""
        name = self.name(number)
        if name is None or name.rpartition("/")[2] != file_name:
            raise Unreadable(f"its row {number} names another image file than its record")
        entry = self._parts[number]
        data = self._store.read(name)
        if data is None:
            raise _PartFault("the image file is gone")
        digest = hashlib.sha256(data).hexdigest()
        if (digest, len(data)) != (entry["sha256"], entry["size"]):
            raise _PartFault(f"the image file is damaged: {_differs(entry, digest, len(data))}")
        self._found.objects, self._found.bytes = self._found.objects + 1, self._found.bytes + len(data)
        return data


def _row_fault(row: WalkedRow, *, deep: bool) -> str | None:
    assert row.image is not None
    try:
        data = row.image()
    except _PartFault as error:
        return str(error)
    return image_fault(data, row) if deep else None


def _differs(entry: dict[str, Any], sha256: str, size: int) -> str:
    if size != entry["size"]:
        return f"it has {size} bytes, its record says {entry['size']}"
    return f"its sha256 is {sha256[:12]}..., its record says {entry['sha256'][:12]}..."
