"""A store that drops replies, answers 409 and 503, stalls and cuts bodies: the dataset is the same, byte for byte."""

from __future__ import annotations

from tests.faults.proxy import FAULTS, FaultProxy
from tests.faults.walk import Storm, Walk


def test_each_kind_of_fault_at_each_request_of_a_run_changes_no_byte(s3_server, s3_bucket):
    """Eight runs; in each every request meets a fault, in each another one. `tests.faults.walk` takes them singly."""
    with FaultProxy(s3_server.endpoint, stall=0.1, burst=3) as proxy:
        walk = Walk(s3_bucket, proxy, s3_server.endpoint)
        for first, kind in enumerate(FAULTS):
            walk.repeat(Storm(first, burst=3), f"a storm that begins with {kind}")
    assert set(walk.injected) == set(FAULTS)
    # A request that is made twice may find its second time let through.
    assert walk.injected.total() >= len(FAULTS) * len(set(walk.requests))
