"""What a run has made, counted from the commit records: planned = committed + rejected, always."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from actors.errors import JobError


@dataclass
class Totals:
    """Sums over commit records. ``descriptions`` counts by status, ``reasons`` rejected rows by reason.

    ``tokens`` were generated; ``prompt_tokens`` an endpoint read, and are 0 with any other engine. ``images_of`` has
    the number of images by shard.
    """

    planned: int = 0
    committed: int = 0
    rejected: int = 0
    images: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    bytes: int = 0
    descriptions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    images_of: dict[int, int] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        """Shards that have a record."""
        return len(self.images_of)

    @property
    def fallbacks(self) -> int:
        """Descriptions for which the prompt itself stands in."""
        return sum(n for status, n in self.descriptions.items() if status not in {"accepted", "prompt"})

    @property
    def reject_fraction(self) -> float:
        """Share of the planned rows that were rejected."""
        return self.rejected / self.planned if self.planned else 0.0


def add_up(records: Iterable[dict[str, Any]]) -> Totals:
    """Sums records; raises `JobError` where a record's counts do not add up."""
    totals = Totals()
    for record in records:
        if record["rows"] != record["committed"] + record["rejected"]:
            raise JobError(f"the record of shard {record['shard']} does not add up: planned != committed + rejected")
        totals.images_of[record["shard"]] = record["images"]
        totals.planned += record["rows"]
        totals.committed += record["committed"]
        totals.rejected += record["rejected"]
        totals.images += record["images"]
        totals.tokens += record["tokens"]
        totals.prompt_tokens += record.get("prompt_tokens", 0)
        totals.bytes += data_bytes(record)
        totals.descriptions.update(record["descriptions"])
        totals.reasons.update(record["reasons"])
    return totals


def data_bytes(record: dict[str, Any]) -> int:
    """The size of a shard's data object and its parts."""
    return sum(int(entry["size"]) for entry in (record["data"], *record["parts"]))


def account(records: Iterable[dict[str, Any]], shards: int, rows: int) -> Totals:
    """Sums the records of a whole run; raises `JobError` where one is missing or a row is not accounted for."""
    totals = add_up(records)
    if totals.shards != shards:
        raise JobError(f"{shards - totals.shards} of {shards} shards have no commit record; run again to resume")
    if totals.planned != rows:
        raise JobError(f"{totals.planned} rows are accounted for, the table has {rows}")
    return totals


def refuse_rejects(totals: Totals, most: float, output: str) -> None:
    """Raises `JobError` where more rows were rejected than ``limits.max_reject_fraction`` allows."""
    if totals.reject_fraction > most:
        raise JobError(
            f"{totals.rejected} of {totals.planned} rows were rejected, more than limits.max_reject_fraction="
            f"{most:g} allows; see '{output}/rejects'"
        )
