"""A store that drops replies, answers 409 and 503, stalls and cuts bodies: the dataset is the same, byte for byte."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage import Store
from tests.faults.proxy import FAULTS, FaultProxy, Plan
from tests.faults.walk import Storm, Walk, asked, every_kind

pytestmark = pytest.mark.usefixtures("hasty_s3fs")


def test_each_kind_of_fault_at_each_request_of_a_run_changes_no_byte(s3_server, s3_bucket):
    """Eight runs; in each every request meets a fault, in each another one. `tests.faults.walk` takes them singly."""
    storms = [Storm(first, burst=3) for first in range(len(FAULTS))]
    with FaultProxy(s3_server.endpoint, stall=0.1, burst=3) as proxy:
        walk = Walk(s3_bucket, proxy, s3_server.endpoint)
        for number, storm in enumerate(storms):
            walk.repeat(storm, f"storm {number}")
    assert set(walk.injected) == set(FAULTS)
    assert len(walk.asked) >= 20
    assert walk.asked <= every_kind(storms), walk.asked - every_kind(storms)


class InParts(Store):
    """A store that uploads in parts of 5 MiB, S3's smallest; s3fs does so from 100 MB on."""

    def _put(self, name: str, source: bytes | Path, options: dict[str, Any]) -> None:
        super()._put(name, source, {**options, "chunksize": 5 << 20})


def test_each_kind_of_fault_at_each_request_of_an_upload_in_parts_leaves_one_whole_object(
    s3_server, s3_bucket, tmp_path
):
    source, name = tmp_path / "shard", "data/shard-000000.parquet"
    source.write_bytes(random.Random(0).randbytes(11 << 20))
    wanted: set[str] = set()
    storms = [Storm(first, burst=3) for first in range(len(FAULTS))]
    with FaultProxy(s3_server.endpoint, stall=0.1, burst=3) as proxy:
        calm: Plan = lambda request: wanted.add(asked(request))  # noqa: E731
        for number, plan in enumerate([calm, *storms]):
            store = InParts(f"{s3_bucket}/{number}", {"endpoint_url": proxy.endpoint}, attempts=12, max_backoff=0.02)
            proxy.reset(plan)
            store.create(name, source)
            proxy.reset()
            assert store.sha256(name) == (hashlib.sha256(source.read_bytes()).hexdigest(), source.stat().st_size)
            assert not store.create(name, b"another writer"), "the name is taken"
    assert len(wanted) == 5, f"begin, three parts, end: {wanted}"
    assert wanted <= every_kind(storms), wanted - every_kind(storms)
