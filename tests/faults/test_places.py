"""Places that fail half way: the error is one sentence, finished shards stay as they are, and the mended place resumes.

The failures are real ones, of real file systems and a real S3 server; as root a mode bit stops nobody.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import JobError, UserError
from pipeline.columns import choose_columns
from pipeline.commit import ShardCommitter, committed_shards, read_records
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.config_stages import Prompts
from pipeline.formats.base import ShardImages
from pipeline.plan import Plan
from pipeline.prompts import open_table
from pipeline.source import RowReader
from pipeline.storage import Store
from pipeline.summary import account
from tests.faults.simulated_job import SHARD_ROWS, made_by

SHARDS = 3


def commit(store: Store, shard: int, picture_bytes: int = 100) -> dict[str, Any]:
    """One shard as a generator actor commits it: adopted if it is there."""
    committer = ShardCommitter(store, "parquet", "f" * 64)
    found = committer.adopt(shard)
    if found is not None:
        return found
    made = made_by(0, shard)
    pictures = ShardImages(lambda row: hashlib.shake_128(b"%d" % row).digest(picture_bytes), "png")
    return committer.commit(type(made)(**{**made.__dict__, "images": pictures})).record


def finish(store: Store) -> None:
    """The same run again; everything is accounted for, and every record describes its object."""
    for shard in sorted(set(range(SHARDS)) - committed_shards(store)):
        commit(store, shard)
    records = read_records(store, range(SHARDS))
    account(records, SHARDS, SHARDS * SHARD_ROWS)
    for record in records:
        assert store.sha256(record["data"]["name"]) == (record["data"]["sha256"], record["data"]["size"])


def refused(store: Store, says: str, picture_bytes: int = 100) -> None:
    """Shard 1 cannot be written; shard 0 stays, and shard 1 does not exist."""
    before = store.sha256("data/shard-000000.parquet")
    with pytest.raises(UserError, match=says) as caught:
        commit(store, 1, picture_bytes)
    assert "\n" not in str(caught.value)
    assert store.sha256("data/shard-000000.parquet") == before
    assert committed_shards(store) == {0}


def test_a_full_disk_is_named_and_freed_space_resumes(small_disk: Path) -> None:
    store = Store(str(small_disk / "out"), attempts=2, max_backoff=0.01)
    commit(store, 0)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
    refused(store, "the disk is full; free space, then run again to resume")
    ballast.unlink()
    finish(store)


def test_a_read_only_place_is_named_and_resumes_when_it_is_writable(small_disk: Path) -> None:
    store = Store(str(small_disk / "out"), attempts=2, max_backoff=0.01)
    commit(store, 0)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        refused(store, "the file system is read-only")
    finally:
        subprocess.run(["mount", "-o", "remount,rw,size=512k", small_disk], check=True)
    finish(store)


def test_a_lost_permission_on_s3_is_named_and_the_right_key_resumes(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    store = Store(f"{s3_bucket}/out", attempts=2, max_backoff=0.01)
    commit(store, 0)
    key = os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "revoked")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"cannot .* (credentials were refused|access denied)") as caught:
        commit(Store(f"{s3_bucket}/out", attempts=2, max_backoff=0.01), 1)
    assert key not in str(caught.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key)
    S3FileSystem.clear_instance_cache()
    store = Store(f"{s3_bucket}/out")
    assert committed_shards(store) == {0}
    finish(store)


def test_a_clock_that_is_not_the_stores_is_named_before_any_work(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 refuses requests that were signed a quarter of an hour away, in XML that names neither key nor policy."""
    import botocore.auth

    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now() - dt.timedelta(hours=3))
    with pytest.raises(JobError, match=r"this machine's clock is not the store's; set it right \(NTP\)") as caught:
        Store(f"{s3_bucket}/out", attempts=2, max_backoff=0.01).probe()
    assert "\n" not in str(caught.value)


def test_a_clock_that_is_set_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol asks no clock: a driver an hour in the past finishes the run, and the bytes are the same."""
    straight, turned = Store(str(tmp_path / "straight")), Store(str(tmp_path / "turned"))
    finish(straight)
    commit(turned, 0)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    finish(turned)
    assert read_records(turned, range(SHARDS)) == read_records(straight, range(SHARDS))


@pytest.mark.parametrize("change", ["more", "same-size", "gone"])
def test_an_input_that_is_replaced_during_the_run_is_named_and_the_old_one_resumes(tmp_path: Path, change: str) -> None:
    path = tmp_path / "prompts.parquet"

    def write(prompts: list[str]) -> None:
        pq.write_table(pa.table({"prompt": prompts}), path)

    write(["a", "b", "c", "d"])
    planned, stamp = path.read_bytes(), path.stat().st_mtime_ns
    config = load_config(SynthesizeConfig, None, [f"prompts.uri={path}", "expand=null", "shards.rows=2"])
    table = open_table(Prompts(uri=str(path)))
    columns = choose_columns(table.schema, config.prompts)
    plan = Plan(table, columns, 2, {})
    reader = RowReader(table, columns, config, frozenset())

    def read(shard: int) -> list[str]:
        (block,) = reader.blocks(plan.shard(shard))
        return block["prompt"].to_pylist()

    assert read(0) == ["a", "b"]
    replace: dict[str, Callable[[], object]] = {
        "more": lambda: write(["a", "b", "c", "d", "e"]),
        "same-size": lambda: write(["a", "b", "x", "y"]),
        "gone": path.unlink,
    }
    replace[change]()
    if path.exists():
        os.utime(path, ns=(stamp + 10**9, stamp + 10**9))
    with pytest.raises(UserError, match=r"has changed since the plan was made|is gone since the plan was made"):
        read(1)
    path.write_bytes(planned)
    os.utime(path, ns=(stamp, stamp))
    assert read(1) == ["c", "d"]
