"""An upload of a checkpoint that breaks off at any request leaves a torn checkpoint, which is never taken for whole."""

from __future__ import annotations

import pytest

from actors.errors import JobError
from pipeline.checkpoint_store import CheckpointStore, SavedCheckpoint
from pipeline.storage import Store
from tests.faults.proxy import FAULTS, FaultProxy, Plan, Request
from tests.faults.walk import Storm

pytestmark = pytest.mark.usefixtures("hasty_s3fs")
FILES = {"optimiser.safetensors": b"moments" * 50, "position.json": b"{}", "weights.safetensors": b"weights" * 90}


def put(place: Store, step: int) -> SavedCheckpoint:
    with place.scratch() as directory:
        for name, data in FILES.items():
            (directory / name).write_bytes(data + b"%d" % step)
        return CheckpointStore(place, 9, pytest.fail).put(directory, "play", (0, step), None)


def dead_from(number: int) -> Plan:
    """The writer dies at its n-th put: neither that request nor any later one reaches the store."""
    puts = 0

    def plan(request: Request) -> str | None:
        nonlocal puts
        puts += request.method == "PUT"
        return "cut upload" if puts >= number else None

    return plan


def test_an_upload_cut_at_any_object_is_passed_over_and_the_next_one_is_whole(s3_server, s3_bucket, tmp_path):
    direct = Store(f"{s3_bucket}/run", {"endpoint_url": s3_server.endpoint})
    put(direct, 1)
    with FaultProxy(s3_server.endpoint) as proxy:
        faulty = Store(f"{s3_bucket}/run", {"endpoint_url": proxy.endpoint}, attempts=2, max_backoff=0.01)
        for number in range(1, len(FILES) + 2):  # the last is the manifest
            proxy.reset(dead_from(number))
            with pytest.raises(JobError, match="run again to resume"):
                put(faulty, 1 + number)
            found = CheckpointStore(direct, 9, pytest.fail).latest(tmp_path / str(number))
            assert found is not None
            assert found.order == (0, 1)
            assert {name: (tmp_path / str(number) / name).read_bytes() for name in FILES} == {
                name: data + b"1" for name, data in FILES.items()
            }
        proxy.reset()
        put(faulty, 9)
    found = CheckpointStore(direct, 9, pytest.fail).latest(tmp_path / "last")
    assert found is not None
    assert found.order == (0, 9)


def test_an_upload_through_every_kind_of_fault_is_whole(s3_server, s3_bucket, tmp_path):
    direct = Store(f"{s3_bucket}/run", {"endpoint_url": s3_server.endpoint})
    with FaultProxy(s3_server.endpoint, stall=0.1, burst=3) as proxy:
        faulty = Store(f"{s3_bucket}/run", {"endpoint_url": proxy.endpoint}, attempts=12, max_backoff=0.02)
        for first, kind in enumerate(FAULTS):
            proxy.reset(Storm(first, burst=3))
            put(faulty, 1 + first)
            proxy.reset()
            found = CheckpointStore(direct, 9, pytest.fail).latest(tmp_path / kind)
            assert found is not None
            assert found.order == (0, 1 + first)
            assert {name: (tmp_path / kind / name).read_bytes() for name in FILES} == {
                name: data + b"%d" % (1 + first) for name, data in FILES.items()
            }
