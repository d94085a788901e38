"""What the simulated drivers and workers work on: a real prompt table, a real plan, and results of no model."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import OUTPUT_FIELDS, REJECT_FIELDS, TableColumns, choose_columns
from pipeline.commit import ShardResult
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.formats.base import ShardImages
from pipeline.prompts import PromptTable, open_table
from pipeline.run_record import ModelHashes, describe_run
from pipeline.storage import Store

SHARD_ROWS = 3


@dataclass(frozen=True)
class Job:
    """A config, its table, and the fingerprint of the two."""

    config: SynthesizeConfig
    table: PromptTable
    columns: TableColumns
    models: ModelHashes
    fingerprint: str


@functools.cache
def job(shards: int, output_format: str, config_seed: int) -> Job:
    """A job of so many shards; ``config_seed`` tells two configs apart."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "prompts.parquet"
        rows = [{"id": f"r{row}", "prompt": f"p{row}"} for row in range(shards * SHARD_ROWS)]
        pq.write_table(pa.Table.from_pylist(rows), path)
        os.utime(path, (0, 0))  # the change token is part of the run record: one seed, one trace
        config = load_config(
            SynthesizeConfig, None,
            [f"prompts.uri={path}", f"shards.rows={SHARD_ROWS}", f"seed={config_seed}",
             f"output.format={output_format}"],
        )  # fmt: skip
        table = open_table(config.prompts)
        columns = choose_columns(table.schema, config.prompts)
        models = ModelHashes(None, "0" * 64)
        run = describe_run(Store(directory), config, table, columns, models, {})
        # Another process of this job finds the table's content known, as a resume does, and reads it no more.
        content, repeats = run.record["table"]["sha256"], run.plan.repeats
    known = _KnownTable(table.uri, {}, table.files, table.schema, table.column, table.limit, content)
    assert repeats == {}
    return Job(config, known, columns, models, run.fingerprint)


@dataclass(frozen=True)
class _KnownTable(PromptTable):
    """The table with its bytes hashed and its ids read already: a thousand seeds need not do it again."""

    content: str = ""

    def content_hash(self) -> str:
        return self.content

    def batches(self, columns: list[str], rows: int = 65_536):  # type: ignore[no-untyped-def]
        values = [{"id": f"r{row}", "prompt": f"p{row}"} for row in range(self.rows)]
        yield pa.Table.from_pylist(values).select(columns)


@functools.cache
def made_by(hardware: int, shard: int) -> ShardResult:
    """A shard as one kind of hardware makes it: another kind makes other pixels and, now and then, another reject."""
    first = shard * SHARD_ROWS
    rejected = {first + (shard + hardware) % SHARD_ROWS} if (shard + hardware) % 3 else set()
    if shard % 4 == 3 and hardware:
        rejected = set(range(first, first + SHARD_ROWS))  # nothing but rejects
    kept = [row for row in range(first, first + SHARD_ROWS) if row not in rejected]
    rows = [
        {"id": f"r{row}-v0-{image}", "prompt_id": f"r{row}", "prompt": f"p{row}", "description": f"p{row}",
         "description_status": "prompt", "variant": 0, "image_index": image, "seed": row, "width": 4, "height": 4,
         "scores": {"similarity": None}}
        for row in kept for image in (0, 1)
    ]  # fmt: skip
    rejects = [
        {"id": f"r{row}", "prompt": f"p{row}", "reject_stage": "generate", "reject_reason": "not_finite",
         "reject_detail": f"hardware {hardware}"}
        for row in sorted(rejected)
    ]  # fmt: skip
    schema = pa.schema([("id", pa.string()), ("prompt", pa.string()), *REJECT_FIELDS])

    def picture(row: int) -> bytes:
        return hashlib.sha256(f"{hardware}:{shard}:{row}".encode()).digest()

    return ShardResult(
        shard=shard,
        planned=SHARD_ROWS,
        rows=pa.Table.from_pylist(rows, pa.schema([f for f in OUTPUT_FIELDS if f.name != "image"])),
        images=ShardImages(picture, "png"),
        rejects=pa.Table.from_pylist(rejects, schema),
        counts={"descriptions": {"prompt": len(kept)}, "tokens": 0},
    )
