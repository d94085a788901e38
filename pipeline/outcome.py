"""What a shard came to: the counts that its record holds, and the one row that reaches the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline import columns as c
from pipeline.summary import data_bytes

OUTCOME_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int64()),
        pa.field("rows", pa.int64()),
        pa.field("images", pa.int64()),
        pa.field("rejected", pa.int64()),
        pa.field("adopted", pa.bool_()),
        pa.field("bytes", pa.int64()),
        pa.field("tokens", pa.int64()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("descriptions", pa.map_(pa.string(), pa.int64())),
        pa.field("reasons", pa.map_(pa.string(), pa.int64())),
    ]
)


def counts_of(block: pa.Table) -> dict[str, Any]:
    """Deterministic counts of one shard for its record: descriptions by status, tokens generated."""
    statuses: dict[str, int] = {}
    for status, reason in zip(block[c.STATUS].to_pylist(), block[c.REASON].to_pylist(), strict=True):
        if reason is None:
            statuses[status] = statuses.get(status, 0) + 1
    found = {"descriptions": dict(sorted(statuses.items())), "tokens": sum(block[c.TOKENS].to_pylist())}
    # Only an endpoint counts what it read; what other engines make has the record that it always had.
    read = sum(block[c.PROMPT_TOKENS].to_pylist())
    return found | ({"prompt_tokens": read} if read else {})


def outcome(record: dict[str, Any], adopted: bool) -> pa.Table:
    """One row of `OUTCOME_SCHEMA`."""
    row = {name: record[name] for name in ("shard", "rows", "images", "rejected", "tokens")} | {"adopted": adopted}
    row["bytes"] = data_bytes(record)
    row["prompt_tokens"] = record.get("prompt_tokens", 0)
    row |= {name: list(record[name].items()) for name in ("descriptions", "reasons")}
    return pa.Table.from_pylist([row], schema=OUTCOME_SCHEMA)


@dataclass
class Arrived:
    """Sums over the outcomes of one start; the driver keeps no outcome, for a run may have a hundred thousand shards.

    Attributes:
        made: shards that this start made.
        images: images in them.
        adopted: shards that another writer turned out to have made.
    """

    made: int = 0
    images: int = 0
    adopted: int = 0

    @property
    def shards(self) -> int:
        """All that arrived."""
        return self.made + self.adopted

    def add(self, outcome: dict[str, Any]) -> None:
        """Counts one row of `OUTCOME_SCHEMA`."""
        if outcome["adopted"]:
            self.adopted += 1
        else:
            self.made += 1
            self.images += outcome["images"]
