"""Whole outputs in a moment: true run record, marked images, rejects; made by the committer, without Ray or models."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from actors.marks import mark
from pipeline.commit import ShardCommitter, ShardResult, encode_record
from pipeline.formats.base import ShardImages
from pipeline.parquet_encryption import ParquetEncryption
from pipeline.run_record import RUN
from pipeline.storage import Store
from tests.pipeline.outputs import output_table, put_run, reject_table

FORMATS = ["parquet", "webdataset", "files"]
PER_SHARD = 3
"""Rows of each shard; the first of each odd shard is a reject."""


def marked_png(image_id: str, shade: int) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", mark(image_id).decode())
    file = io.BytesIO()
    Image.new("RGB", (16, 12), (shade % 256, 80, 200)).save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def shard_result(shard: int, ids_of: int | None = None) -> ShardResult:
    """What is made of one shard; ``ids_of`` is another shard whose ids it takes."""
    rejected = ["empty_prompt"] if shard % 2 else []
    count = PER_SHARD - len(rejected)
    rows = output_table(shard if ids_of is None else ids_of, count)
    ids = rows["id"].to_pylist()
    return ShardResult(
        shard=shard,
        planned=PER_SHARD,
        rows=rows,
        images=ShardImages(lambda row: marked_png(ids[row], shard * 50 + row), "png"),
        rejects=reject_table(rejected),
        counts={"descriptions": {"accepted": count}, "tokens": 10 * count},
    )


def fingerprint_of(output_format: str, shards: int, encryption: ParquetEncryption | None = None) -> str:
    """Puts no object: the fingerprint that `make_sound_output` gives such an output."""
    record = put_run(Store("memory://fingerprints"), output_format, shards * PER_SHARD, [], **_config(encryption))
    return hashlib.sha256(json.dumps(record["identity"], sort_keys=True).encode()).hexdigest()


def make_sound_output(
    where: Path | str | Store, output_format: str, shards: int = 4, encryption: ParquetEncryption | None = None
) -> tuple[Store, ShardCommitter]:
    """An output as an undisturbed run leaves it, and the committer that made it."""
    store = where if isinstance(where, Store) else Store(str(where))
    record = put_run(store, output_format, shards * PER_SHARD, [], **_config(encryption))
    record["fingerprint"] = fingerprint_of(output_format, shards, encryption)
    store.replace(RUN, encode_record(record))
    committer = ShardCommitter(store, output_format, record["fingerprint"], encryption)
    for shard in range(shards):
        committer.commit(shard_result(shard))
    return store, committer


def _config(encryption: ParquetEncryption | None) -> dict[str, Any]:
    own: dict[str, Any] = {"shards": {"rows": PER_SHARD}}
    return own | ({"output": {"encryption": asdict(encryption)}} if encryption else {})
