"""The plan: fixed, ordered slices of the prompt table, a pure function of file order, row order and shard size."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.columns import TableColumns
from pipeline.prompts import PromptTable
from pipeline.row_ids import base_ids


@dataclass(frozen=True)
class Plan:
    """All shards of a run, computed on demand: a plan of a million shards costs no more than one of ten.

    ``repeats`` names the rows whose id came before (see `pipeline.row_ids.find_repeats`).
    """

    table: PromptTable
    columns: TableColumns
    shard_rows: int
    repeats: dict[int, int] = field(repr=False)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.table.rows // self.shard_rows)

    def shard(self, index: int) -> ShardPlan:
        """The shard number ``index``, small enough to travel to a worker by itself."""
        start = index * self.shard_rows
        stop = min(start + self.shard_rows, self.table.rows)
        slices = tuple(self.table.slices(start, stop))
        # The lookup walks the shard's rows, not the repeats: a table of one prompt repeated has as many as rows.
        repeats = {row - start: self.repeats[row] for row in range(start, stop) if row in self.repeats}
        return ShardPlan(index, stop - start, slices, repeats)


@dataclass(frozen=True)
class ShardPlan:
    """One shard: ``slices`` are (file number, first row, row after the last); ``repeats`` counts from its row 0."""

    index: int
    rows: int
    slices: tuple[tuple[int, int, int], ...]
    repeats: dict[int, int]

    def ids(self, table: pa.Table, columns: TableColumns) -> tuple[list[str], list[bool]]:
        """(id, whether it is a true duplicate) of each row.

        A row without an own id that repeats earlier content gets its occurrence number behind the hash; a repeated own
        id stays as it is and is marked, for it cannot be told apart.
        """
        ids = base_ids(table, columns)
        own = table["id"].to_pylist() if "id" in columns.honoured else [None] * len(ids)
        doubled = [False] * len(ids)
        for row, before in self.repeats.items():
            if own[row] is None or str(own[row]) == "":
                ids[row] = f"{ids[row]}-{before}"
            else:
                doubled[row] = True
        return ids, doubled
