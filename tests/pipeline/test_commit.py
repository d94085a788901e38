"""The shard protocol: the first data object that landed is the shard, and its record describes that object."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.errors import JobError, UserError
from pipeline.columns import OUTPUT_FIELDS, REJECT_FIELDS
from pipeline.commit import ShardCommitter, ShardResult, committed_shards, read_records, record_name
from pipeline.formats.base import ShardImages
from pipeline.storage import Store
from pipeline.summary import add_up

FORMATS = ["parquet", "webdataset", "files"]


def png(colour: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


def result(shard: int = 0, images: int = 3, rejects: int = 1, colour: int = 9) -> ShardResult:
    rows = [
        {"id": f"r{i}-v0-0", "prompt_id": f"r{i}", "prompt": f"p{i}", "description": "d", "description_status": "ok",
         "variant": 0, "image_index": 0, "seed": i, "width": 4, "height": 4, "scores": {"similarity": None}}
        for i in range(images)
    ]  # fmt: skip
    schema = pa.schema([f for f in OUTPUT_FIELDS if f.name != "image"])
    rejected = [
        {"id": f"x{i}", "prompt": "", "reject_stage": "read", "reject_reason": "empty_prompt", "reject_detail": "null"}
        for i in range(rejects)
    ]
    reject_schema = pa.schema([("id", pa.string()), ("prompt", pa.string()), *REJECT_FIELDS])
    return ShardResult(
        shard=shard,
        planned=images + rejects,
        rows=pa.Table.from_pylist(rows, schema),
        images=ShardImages(lambda i: png(colour), "png"),
        rejects=pa.Table.from_pylist(rejected, reject_schema),
        counts={"descriptions": {"accepted": images} if images else {}, "tokens": 7},
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def objects(store: Store) -> dict[str, str]:
    root = Path(store.root)
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_a_record_describes_every_object_and_counts_add_up(store: Store, kind: str) -> None:
    committed = ShardCommitter(store, kind, "f" * 64).commit(result())
    record = committed.record
    assert (record["rows"], record["committed"], record["rejected"], record["images"]) == (4, 3, 1, 3)
    named = [record["data"], record["rejects"], *record["parts"]]
    found = objects(store)
    assert {entry["name"]: entry["sha256"] for entry in named} == {
        name: digest for name, digest in found.items() if not name.startswith("_run/")
    }
    assert committed_shards(store) == {0}
    assert read_records(store, [0]) == [record]
    totals = add_up([record])
    assert (totals.planned, totals.committed, totals.rejected) == (4, 3, 1)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_result_gives_the_same_bytes_and_a_repeat_changes_nothing(tmp_path: Path, kind: str) -> None:
    first, second = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    for store in (first, second):
        ShardCommitter(store, kind, "f" * 64).commit(result())
    assert objects(first) == objects(second)
    again = ShardCommitter(first, kind, "f" * 64).commit(result())
    assert not again.adopted, "the object that is there is the very one"
    assert objects(first) == objects(second)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_first_object_is_the_shard_whatever_a_zombie_makes(store: Store, kind: str) -> None:
    winner = ShardCommitter(store, kind, "f" * 64).commit(result(colour=1))
    # Another node kind: other pixels, other rejects, the same run and shard.
    late = ShardCommitter(store, kind, "f" * 64).commit(result(colour=2, images=2, rejects=2))
    assert late.adopted
    assert late.record == winner.record
    data = store.sha256(late.record["data"]["name"])
    assert data is not None
    assert data[0] == winner.record["data"]["sha256"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_crash_before_the_record_is_mended_from_the_object_that_is_there(store: Store, kind: str) -> None:
    committer = ShardCommitter(store, kind, "f" * 64)
    assert committer.adopt(0) is None
    record = committer.commit(result()).record
    store.remove(record_name(0))
    assert committed_shards(store) == set()
    assert committer.adopt(0) == record
    assert committed_shards(store) == {0}


@pytest.mark.parametrize("kind", FORMATS)
def test_another_runs_object_is_an_error_that_names_both(store: Store, kind: str) -> None:
    ShardCommitter(store, kind, "a" * 64).commit(result())
    with pytest.raises(UserError, match=r"belongs to run aaaaaaaaaaaa shard 0, not to this run bbbbbbbbbbbb shard 0"):
        ShardCommitter(store, kind, "b" * 64).commit(result())


@pytest.mark.parametrize("kind", FORMATS)
def test_a_strangers_file_under_the_name_is_never_overwritten(store: Store, kind: str) -> None:
    suffix = {"parquet": ".parquet", "webdataset": ".tar", "files": "/metadata.parquet"}[kind]
    store.create(f"data/shard-000000{suffix}", b"my thesis")
    with pytest.raises(UserError, match="no shard of promptmill"):
        ShardCommitter(store, kind, "f" * 64).commit(result())
    assert store.read(f"data/shard-000000{suffix}") == b"my thesis"
    assert committed_shards(store) == set()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_shard_of_rejects_alone_has_a_data_object_with_no_rows(store: Store, kind: str) -> None:
    record = ShardCommitter(store, kind, "f" * 64).commit(result(images=0, rejects=4)).record
    assert (record["images"], record["rejected"], record["parts"]) == (0, 4, [])
    assert store.size(record["data"]["name"]) is not None
    table = pq.read_table(Path(store.root) / record["rejects"]["name"])
    assert table["reject_reason"].to_pylist() == ["empty_prompt"] * 4


def test_a_record_that_describes_another_object_is_never_silently_kept(store: Store) -> None:
    committer = ShardCommitter(store, "parquet", "f" * 64)
    record = committer.commit(result()).record
    tampered: dict[str, Any] = {**record, "data": {**record["data"], "sha256": "0" * 64}}
    store.replace(record_name(0), json.dumps(tampered).encode())
    with pytest.raises(JobError, match="changed by hand"):
        committer.commit(result())


def test_counts_that_do_not_add_up_are_refused() -> None:
    record = {"shard": 3, "rows": 4, "committed": 2, "rejected": 1}
    with pytest.raises(JobError, match="shard 3 does not add up"):
        add_up([record])
