"""Whole runs of `synthesize` in trouble: a store that fails at every request, a right lost half way, a damaged output.

Each ends in the bytes of the undisturbed run, at once or when what was wrong is mended and the same command runs again.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from actors.errors import PromptmillError, UserError
from jobs.cli import main
from pipeline.commit import committed_shards
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.run_record import RUN
from pipeline.storage import Store
from pipeline.synthesize import Summary, synthesize
from tests.faults.datasets import contents, records
from tests.faults.proxy import FAULTS, FaultProxy, Request
from tests.faults.walk import Storm, asked, every_kind

SHARDS = 5


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "prompts.parquet"
    pq.write_table(
        pa.table({"prompt": ["a red heart", "", *(f"a green tree {i}" for i in range(2 * SHARDS - 2))]}), path
    )
    return path


@pytest.fixture(scope="module")
def run(table: Path, tiny_gan: Path, local_ray: None) -> Callable[..., Summary]:
    def run(output: Path | str, *overrides: str, file: Path | None = None) -> Summary:
        told = [f"prompts.uri={table}", f"output.uri={output}", f"generate.model={tiny_gan}", "expand=null",
                "shards.rows=2", "limits.max_reject_fraction=1", *overrides]  # fmt: skip
        return synthesize(load_config(SynthesizeConfig, file, told), quiet=True)

    return run


@pytest.fixture(scope="module")
def calm(run: Callable[..., Summary], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The objects of an undisturbed run."""
    output = tmp_path_factory.mktemp("calm") / "out"
    run(output)
    return contents(str(output))


def differ(found: dict[str, bytes], calm: dict[str, bytes]) -> list[str]:
    """Names of other bytes; of the run record, which names the table's place, the fingerprint counts."""
    told = [json.loads(objects[RUN])["fingerprint"] for objects in (found, calm)]
    return [name for name in calm if found[name] != calm[name] and (name != RUN or told[0] != told[1])]


def finished_objects(found: dict[str, bytes]) -> dict[str, bytes]:
    """The records, and the data objects that they name."""
    names = [name for name in found if name.startswith("_run/shards/")]
    names += [json.loads(found[name])["data"]["name"] for name in names]
    return {name: found[name] for name in names}


class Remote:
    """The same run on a bucket behind a proxy: its prompt table is read through it too."""

    def __init__(self, run: Callable[..., Summary], bucket: str, proxy: FaultProxy, server, file: Path) -> None:
        self.proxy, self._run = proxy, run
        self._bucket, self._server, self._file = bucket, server, file

    def __call__(self, output: str) -> Summary:
        told = self._server.environ()
        # The shared Ray's workers were started without this server's credentials: they come with the config's file.
        options = {
            "key": told["AWS_ACCESS_KEY_ID"], "secret": told["AWS_SECRET_ACCESS_KEY"],
            "endpoint_url": self.proxy.endpoint, "client_kwargs": {"region_name": told["AWS_DEFAULT_REGION"]},
        }  # fmt: skip
        prompts = {"uri": f"{self._bucket}/in/prompts.parquet", "options": options}
        storage = {"options": options, "attempts": 15, "max_backoff": 0.05}
        self._file.write_text(json.dumps({"prompts": prompts, "storage": storage}))
        return self._run(f"{self._bucket}/{output}", f"prompts.uri={prompts['uri']}", file=self._file)

    def dataset(self, output: str) -> dict[str, bytes]:
        found = contents(f"{self._bucket}/{output}", endpoint_url=self._server.endpoint)
        # A probe whose deletion was cut off may leave its scratch object: it is no part of the dataset.
        return {name: data for name, data in found.items() if not name.startswith("_run/probe-")}


@pytest.fixture
def remote(
    run: Callable[..., Summary], table: Path, tmp_path: Path, s3_server, s3_bucket: str
) -> Iterator[Callable[[float], Remote]]:
    s3fs.S3FileSystem().put_file(str(table), f"{s3_bucket}/in/prompts.parquet")
    proxies: list[FaultProxy] = []

    def remote(stall: float) -> Remote:
        proxies.append(FaultProxy(s3_server.endpoint, stall=stall, burst=3).__enter__())
        return Remote(run, s3_bucket, proxies[-1], s3_server, tmp_path / "config.yaml")

    yield remote
    for proxy in proxies:
        proxy.__exit__()


def ride_out(remote: Remote, plan: Callable[[Request], str | None], output: str, calm: dict[str, bytes]) -> None:
    """A run under a plan; what it leaves is what the undisturbed run leaves."""
    remote.proxy.reset(plan)
    summary = remote(output)
    assert summary.totals.planned == summary.totals.committed + summary.totals.rejected == 2 * SHARDS
    found = remote.dataset(output)
    assert found.keys() == calm.keys()
    assert differ(found, calm) == []


def test_a_fault_at_each_request_of_a_whole_run_changes_no_byte(remote, calm):
    """Prompts and output on S3. The long form below has each request meet each kind of fault."""
    behind, storm = remote(0.2), Storm(0, burst=3)
    ride_out(behind, storm, "storm-0", calm)
    assert {fault for _, fault in storm.met} == set(FAULTS)
    assert len(behind.proxy.injected) > 50


@pytest.mark.campaign
def test_every_fault_at_every_request_of_a_whole_run_changes_no_byte(remote, calm):
    """Eight runs, stalls of 5 s: what met one fault in one run meets another one in each other run."""
    behind, wanted = remote(5.0), set[str]()
    ride_out(behind, lambda request: wanted.add(asked(request)), "storm-undisturbed", calm)
    storms = [Storm(first, burst=3) for first in range(len(FAULTS))]
    injected = 0
    for number, storm in enumerate(storms):
        ride_out(behind, storm, f"storm-{number}", calm)
        injected += len(behind.proxy.injected)
    missed = wanted - every_kind(storms)
    assert not missed, missed
    print(f"{len(storms)} whole runs, {len(wanted)} requests, {injected} faults injected, the same bytes each time")


class Revoked:
    """A plan that refuses every put after some data objects: a key that lost its right to write."""

    def __init__(self, after: int) -> None:
        self._left = after

    def __call__(self, request: Request) -> str | None:
        if self._left > 0:
            self._left -= request.method == "PUT" and "/data/" in request.target
            return None
        return "403" if request.method in ("PUT", "POST") else None


def test_a_right_to_write_that_is_lost_half_way_is_named_and_the_run_goes_on_when_it_is_back(remote, calm):
    behind = remote(0.0)
    # Two shards are in the actor at most: when it puts the third data object, one has its record.
    behind.proxy.reset(Revoked(after=3))
    with pytest.raises(UserError, match=r"cannot write 's3://.*': access denied \(403\)"):
        behind("out")
    finished = finished_objects(behind.dataset("out"))
    assert 0 < sum(name.startswith("_run/shards") for name in finished) < SHARDS
    behind.proxy.reset()
    behind("out")
    found = behind.dataset("out")
    assert found.keys() == calm.keys()
    assert differ(found, calm) == []
    assert finished.items() <= found.items()


WAIT = """
import os, time
def render(real, self, jobs):
    while any(job.text == {last!r} for job in jobs) and not os.path.exists({full!r}):
        time.sleep(0.01)
    return real(self, jobs)
"""


def test_a_disk_that_fills_up_half_way_is_named_and_the_run_goes_on_when_there_is_room(
    run, calm, small_disk, tmp_path, engines
):
    """The last shard waits until another one is finished and the disk is full."""
    output, full, over = small_disk / "out", tmp_path / "full", threading.Event()
    ballast = small_disk / "ballast"
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)

    def fill() -> None:
        while not over.wait(0.01):
            if records(output):
                with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
                    while True:
                        stream.write(bytes(4096))
                full.touch()
                return

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        fault = WAIT.format(last=f"a green tree {2 * SHARDS - 3}", full=str(full))
        with engines.fail(fault), pytest.raises(PromptmillError, match="the disk is full; free space") as caught:
            run(output)
    finally:
        over.set()
        thread.join()
    assert "\n" not in str(caught.value)
    ballast.unlink()
    finished = finished_objects(contents(str(output)))
    assert 0 < records(output) < SHARDS
    run(output)
    found = contents(str(output))
    assert found.keys() == calm.keys()
    assert differ(found, calm) == []
    assert finished.items() <= found.items()


def test_a_damaged_run_is_repaired_and_the_same_command_makes_the_same_bytes_again(run, calm, tmp_path, capsys):
    """A flipped bit, objects cut short and gone, a record and rejects gone: `verify --repair`, then run again."""
    output = tmp_path / "out"
    run(output)
    store = Store(str(output))
    flipped = bytearray(store.read("data/shard-000001.parquet") or b"")
    flipped[len(flipped) // 2] ^= 1
    store.replace("data/shard-000001.parquet", bytes(flipped))
    store.replace("data/shard-000002.parquet", (store.read("data/shard-000002.parquet") or b"")[:-9])
    store.remove("data/shard-000003.parquet")
    store.remove("_run/shards/000004.json")
    (rejects,) = store.list("rejects")
    store.remove(rejects.name)
    assert main(["verify", str(output), "--repair", "--quiet"]) == 1
    assert committed_shards(store) == set()
    assert "000001" in capsys.readouterr().out
    summary = run(output)
    assert summary.made_shards + summary.adopted_shards == SHARDS
    found = {name: data for name, data in contents(str(output)).items() if not name.startswith("_run/quarantine/")}
    assert found.keys() == calm.keys()
    assert differ(found, calm) == []
    assert main(["verify", str(output), "--deep", "--quiet"]) == 0
