"""Every fault at every request: a small run is repeated, and the k-th kind of fault meets its n-th request.

    python -m tests.faults.walk --stall 5

The run is what a driver and its actors do to the store, in one process: probe, adopt a shard that a killed predecessor
left without its record, commit another one with rejects, list, and read all records and rows back, as the report and an
evaluation do. After each repetition the objects must be those of an undisturbed run, byte for byte.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from s3fs import S3FileSystem

from pipeline.captioned import open_captioned
from pipeline.commit import ShardCommitter, committed_shards, read_records, record_name
from pipeline.read_output import find_row, sample_rows
from pipeline.storage import Store
from tests.faults.datasets import contents
from tests.faults.proxy import FAULTS, FaultProxy, Plan, Request
from tests.pipeline.outputs import FINGERPRINT, commit_shard, output_table

_PATIENT = {"config_kwargs": {"retries": {"max_attempts": 0}, "read_timeout": 60}}


def small_run(uri: str, proxy: FaultProxy, direct: str, plan: Plan) -> None:
    """The run; what its predecessor left is put without the proxy."""
    before = Store(uri, {"endpoint_url": direct})
    commit_shard(before, "parquet", 0, output_table(0, 2), ["empty_prompt"])
    before.remove(record_name(0))
    store = Store(uri, {"endpoint_url": proxy.endpoint, **_PATIENT}, attempts=12, max_backoff=0.02)
    proxy.reset(plan)
    store.probe()
    committer = ShardCommitter(store, "parquet", FINGERPRINT)
    assert committer.adopt(0) is not None
    assert committer.adopt(1) is None
    commit_shard(store, "parquet", 1, output_table(1, 3), ["empty_prompt", "bad_seed"])
    assert committed_shards(store) == {0, 1}
    records = read_records(store, [0, 1])
    totals = [(one["rows"], one["committed"], one["rejected"]) for one in records]
    assert totals == [(3, 2, 1), (5, 3, 2)], totals
    read_back(store, records)


def read_back(store: Store, records: list[dict[str, Any]]) -> None:
    """Every row of the run, by the ways that the product reads an output: a sample, an id, a table of images."""
    wanted = [f"p{shard}-{row}-v0-0" for shard, rows in ((0, 2), (1, 3)) for row in range(rows)]
    assert [row.values["id"] for row in sample_rows(store, "parquet", records, 5)] == wanted
    assert find_row(store, "parquet", records, "p1-2-v0-0") is not None
    table = open_captioned(store.uri, captions=["prompt"], options=store.options)
    assert sum(len(table.read(fragment)) for fragment in table.fragments) == len(wanted)


def at(number: int, fault: str) -> Plan:
    """One fault at one request."""

    def plan(request: Request) -> str | None:
        return fault if request.number == number else None

    return plan


def asked(request: Request) -> str:
    """What a request asks for, by a name that is the same in each repetition: method, object, part and range.

    The repetition's own prefix and random names (the probe, a driver's note, an upload) are left out.
    """
    parts = urlsplit(request.target)
    path = re.sub(r"/(storm-\w+|\d+)(?=/|$)", "/N", parts.path, count=1)
    path = re.sub(r"[0-9a-f]{32}", "ID", path)
    query = parse_qs(parts.query, keep_blank_values=True)
    told = [*sorted(query), *query.get("partNumber", [])]
    ranged = re.search(rb"\r\nrange: *([^\r]+)", request.head, re.IGNORECASE)
    return " ".join([request.method, path, *told, ranged.group(1).decode() if ranged else ""]).strip()


class Storm:
    """A plan that meets each request of a run with a fault, and lets its repeats through.

    Which kind meets which request is drawn from its name, so that it does not depend on the order of arrival: of storms
    with ``first`` from 0 to 7, each request meets each kind once.

    Attributes:
        met: (what was asked, fault) of each fault.
    """

    def __init__(self, first: int, burst: int) -> None:
        self._first, self._burst = first, burst
        self._let_through: Counter[str] = Counter()
        self.met: set[tuple[str, str]] = set()

    def __call__(self, request: Request) -> str | None:
        """The fault of a request."""
        name = asked(request)
        if self._let_through[name] > 0:
            self._let_through[name] -= 1
            return None
        fault = FAULTS[(zlib.crc32(name.encode()) + self._first) % len(FAULTS)]
        self.met.add((name, fault))
        self._let_through[name] = self._burst if fault == "503" else 1
        return fault


def every_kind(storms: Iterable[Storm]) -> set[str]:
    """What was asked for and met each kind of fault."""
    met: defaultdict[str, set[str]] = defaultdict(set)
    for storm in storms:
        for name, fault in storm.met:
            met[name].add(fault)
    return {name for name, faults in met.items() if faults == set(FAULTS)}


class Walk:
    """Repeats the small run in a bucket, each time with another plan, and compares with the undisturbed one."""

    def __init__(self, bucket: str, proxy: FaultProxy, direct: str) -> None:
        self._bucket, self._proxy, self._direct = bucket, proxy, direct
        self.injected: Counter[str] = Counter()
        # What the undisturbed run asks for, by `asked`.
        self.asked: set[str] = set()
        self._repeats = 0
        self._calm = self._repeat(self._undisturbed)
        self.requests = list(proxy.requests)

    def _undisturbed(self, request: Request) -> None:
        self.asked.add(asked(request))

    def repeat(self, plan: Plan, where: str) -> None:
        """Once more; raises `AssertionError` where an object is missing, too many, or of other bytes."""
        found = self._repeat(plan)
        self.injected.update(fault for _, fault in self._proxy.injected)
        assert found.keys() == self._calm.keys(), f"{where}: {sorted(found.keys() ^ self._calm.keys())}"
        differ = [name for name in self._calm if found[name] != self._calm[name]]
        assert not differ, f"{where}: {differ}"

    def _repeat(self, plan: Plan) -> dict[str, bytes]:
        self._repeats += 1
        uri = f"{self._bucket}/{self._repeats}"
        small_run(uri, self._proxy, self._direct, plan)
        found = contents(uri, endpoint_url=self._direct)
        # A probe whose deletion was cut off may leave its scratch object: it is no part of the dataset.
        return {name: data for name, data in found.items() if not name.startswith("_run/probe-")}


def main() -> int:
    """The command: the whole walk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stall", type=float, default=5.0, help="seconds of a stall (default: 5)")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location(
        "swift_s3", Path(__file__).resolve().parents[2] / "infra/object-store/swift_s3.py"
    )
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    sys.modules["swift_s3"] = program
    spec.loader.exec_module(program)
    with program.SwiftS3() as server, FaultProxy(server.endpoint, stall=options.stall) as proxy:
        os.environ.update(server.environ() | {"NO_PROXY": "127.0.0.1"})
        S3FileSystem.clear_instance_cache()
        server.create_bucket("walk")
        walk = Walk("s3://walk", proxy, server.endpoint)
        for number, target in enumerate(walk.requests, 1):
            for kind in FAULTS:
                walk.repeat(at(number, kind), f"{kind} at request {number}, {target}")
            print(f"{target}: {len(FAULTS)} faults, same bytes", flush=True)
    print(f"{len(walk.requests)} requests, {walk.injected.total()} faults injected, the same bytes each time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
