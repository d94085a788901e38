"""What a shard costs a bucket, in requests: the figure that docs/performance.md reckons its limit with."""

from __future__ import annotations

from pipeline.commit import ShardCommitter
from pipeline.id_notes import id_note
from pipeline.storage import Store
from pipeline.timings import put_timing
from tests.faults.proxy import FaultProxy
from tests.pipeline.outputs import FINGERPRINT, commit_shard, output_table


def test_a_shard_is_two_looks_and_three_puts(s3_server, s3_bucket):
    with FaultProxy(s3_server.endpoint) as proxy:
        store = Store(s3_bucket, {"endpoint_url": proxy.endpoint})
        assert ShardCommitter(store, "parquet", FINGERPRINT).adopt(0) is None
        rows = output_table(0, 3)
        commit_shard(store, "parquet", 0, rows)
        put_timing(store, 0, id_note(rows["id"].to_pylist()), rows=3)
        asked = [line.replace(s3_bucket.removeprefix("s3:/"), "").partition("?")[0] for line in proxy.requests]
    assert asked == [
        "HEAD /data/shard-000000.parquet",
        "GET ",  # s3fs lists what a missing name might be the directory of
        "PUT /data/shard-000000.parquet",
        "PUT /_run/shards/000000.json",
        "PUT /_run/timings/000000.json",
    ]
