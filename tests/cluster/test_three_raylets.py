"""The same job on three raylets beside a real S3, submitted over HTTP with a token, while nodes go and come.

The head has no CPUs, as in `infra/kuberay`; the other nodes differ by a label. `make test-cluster` plays the long form
too: 200 prompts, both models.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from pipeline.commit import committed_shards
from pipeline.storage import Store
from tests.faults.datasets import contents
from tests.faults.engines import Engines
from tests.faults.raylets import Raylets

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).parent / "ray")
SHARDS = 14
GIVEN_BACK = 3
"""At most: two inside an image actor, and one that waits."""
_PATIENCE = 300.0


@pytest.fixture
def cluster(s3_server: Any, s3_bucket: str, engines: Engines, request: pytest.FixtureRequest) -> Iterator[Raylets]:
    """Three raylets, whose workers reach the S3 server and wait where `engines` has them wait."""
    path = os.pathsep.join([str(engines.directory), str(REPOSITORY)])
    # Longer than any test: a node that is taken away ends because its actors leave it, or not at all.
    extra = {**s3_server.environ(), "PYTHONPATH": path, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "900"}
    cpus = getattr(request, "param", 1)
    labels = ("place=stays", "place=goes")
    # On a busy machine a raylet may answer late, and is no dead one for that.
    patient = {"missed_after": 30, "lost_after": 60}
    with Raylets(cpus=cpus, head_cpus=0, dashboard=True, labels=labels, extra=extra, **patient) as raylets:
        yield raylets


def _hear_ctrl_c() -> None:
    """What a script runs in its background ignores Ctrl-C, and so does all that it starts: a suite's commands too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Job:
    """A command that submits a job and follows it to its end; its words are kept."""

    def __init__(self, cluster: Raylets, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, stdout=stream, stderr=subprocess.STDOUT, env=cluster.environment(),
                preexec_fn=_hear_ctrl_c,  # noqa: PLW1509 - it takes no lock that a thread may hold
            )  # fmt: skip

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        print(self.said())

    def said(self) -> str:
        return self._log.read_text()

    def status(self) -> int:
        return self._process.wait(_PATIENCE)

    def detach(self) -> str:
        """Ctrl-C: the command ends, its job goes on; returns the name that the command says to attach to."""
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(60) == 130, self.said()
        found = re.search(
            r"detached; the job goes on. Follow it again with: promptmill submit --attach (\S+)", self.said()
        )
        assert found is not None, self.said()
        return found.group(1)

    def wait_for(self, what: str, holds: Callable[[], object], patience: float = _PATIENCE) -> None:
        """Waits until something holds, and fails where the job ends before."""
        deadline = time.monotonic() + patience
        while not holds():
            assert self._process.poll() is None, f"the job ended before {what}"
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.1)


def table(bucket: str, rows: int, directory: Path) -> str:
    """The override that names a prompt table in the bucket."""
    path = directory / "prompts.parquet"
    pq.write_table(pa.table({"prompt": [f"a red heart number {i}" for i in range(rows)]}), path)
    s3fs.S3FileSystem().put_file(str(path), f"{bucket}/in/prompts.parquet")
    return f"prompts.uri={bucket}/in/prompts.parquet"


def submit(cluster: Raylets, directory: Path, *words: str) -> list[str]:
    """`promptmill submit`, with an empty working directory: the code is on the nodes, as in an image."""
    empty = directory / "empty"
    empty.mkdir(exist_ok=True)
    where = ["--address", cluster.http, "--working-dir", str(empty), "--follow"]
    return [sys.executable, "-m", "jobs", "submit", *words, *where]


# Shards wait for the first file, those of the second half for the second one too.
GATES = """
import os, time
def render(real, self, jobs):
    late = any(int(job.text.rpartition(" ")[2]) >= {half} for job in jobs)
    while not (os.path.exists({first!r}) and (not late or os.path.exists({second!r}))):
        time.sleep(0.02)
    return real(self, jobs)
"""


def test_a_job_outlives_a_node_that_is_taken_away_and_one_that_is_killed(
    cluster: Raylets, s3_bucket: str, tmp_path: Path, tiny_gan: Path, engines: Engines
) -> None:
    """On one node, chosen by its label, by Ray's own command; then on all by `promptmill submit`: the same bytes."""
    words = [table(s3_bucket, 2 * SHARDS, tmp_path), f"generate.model={tiny_gan}", "expand=null", "shards.rows=2"]
    first, second = tmp_path / "first", tmp_path / "second"
    gates = GATES.format(half=SHARDS, first=str(first), second=str(second))
    ray = [RAY, "job", "submit", "--address", cluster.http, "--working-dir", ".", "--", "python", "-m"]
    calm = [*ray, "jobs.synthesize", *words, f"output.uri={s3_bucket}/calm", "limits.max_in_flight=2",
            "generate.actors={min: 1, max: 2, labels: {place: goes}, max_in_flight: 1}"]  # fmt: skip
    with engines.fail(gates), Job(cluster, calm, tmp_path / "calm.log") as job:
        job.wait_for("an actor on the node with the label", lambda: cluster.workers_of(2, "GenerateStage"))
        first.touch()
        second.touch()
        assert job.status() == 0
        assert f"{2 * SHARDS} = {2 * SHARDS} committed + 0 rejected" in job.said()
    assert not cluster.workers_of(1, "GenerateStage")

    first.unlink()
    second.unlink()
    rough, other = f"{s3_bucket}/rough", f"output.uri={s3_bucket}/calm"
    disturbed = submit(cluster, tmp_path, *words, f"output.uri={rough}", "generate.actors={min: 1, max: 2}")
    refused = submit(cluster, tmp_path, *words, other, "seed=9")
    with (
        engines.fail(gates),
        Job(cluster, disturbed, tmp_path / "rough.log") as left,
        Job(cluster, refused, tmp_path / "refused.log") as wrong,
    ):
        grown = lambda: all(cluster.workers_of(node, "GenerateStage") for node in (1, 2))  # noqa: E731
        left.wait_for("the pool to grow from one actor to two", grown)
        again = [sys.executable, "-m", "jobs", "submit", "--attach", left.detach(), "--address", cluster.http]
        with Job(cluster, again, tmp_path / "again.log") as job:
            added = cluster.add(cpus=2)
            cluster.take_away(2)
            first.touch()
            # But for those that the node gave back: they may stand behind shards of the second half.
            half = SHARDS // 2 - GIVEN_BACK
            job.wait_for("the first half", lambda: len(committed_shards(Store(rough))) >= half)
            cluster.kill_node(1)
            job.wait_for("an actor on the node that was added", lambda: cluster.workers_of(added, "GenerateStage"))
            second.touch()
            assert job.status() == 0
            assert f"{2 * SHARDS} = {2 * SHARDS} committed + 0 rejected" in job.said()
        assert wrong.status() != 0
        assert "belongs to another run: seed is 0 there and 9 here" in wrong.said()
    deadline = time.monotonic() + _PATIENCE
    while not cluster.gone(2):
        assert time.monotonic() < deadline, "the drained node does not end"
        time.sleep(0.1)
    assert cluster.said("generate actor leaves: its node is to go, nothing was under way")
    found, wanted = contents(rough), contents(f"{s3_bucket}/calm")
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    told = job_table(cluster)
    assert told.count("jobs.synthesize") >= 1
    assert "red heart" not in told
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "RAY_AUTH_TOKEN"):
        assert cluster.environment()[name] not in told, name


def job_table(cluster: Raylets) -> str:
    """What Ray tells of all jobs to whoever has the token: entrypoints, runtime environments, metadata, messages."""
    token = {"Authorization": f"Bearer {cluster.environment()['RAY_AUTH_TOKEN']}"}
    with urllib.request.urlopen(urllib.request.Request(f"{cluster.http}/api/jobs/", headers=token)) as answer:
        return answer.read().decode()


# All calls but the first so many wait for a file.
LATE = """
import os, time
def render(real, self, jobs):
    while not (first({early}, "early") or os.path.exists({gate!r})):
        time.sleep(0.02)
    return real(self, jobs)
"""


@pytest.mark.campaign
@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_two_hundred_prompts_while_a_node_is_killed_and_one_is_added(
    cluster: Raylets, s3_bucket: str, tmp_path: Path, engines: Engines
) -> None:
    """The embedded models. The language models' actors are gone, and their CPUs free, before the last pictures are."""
    shards, gate = 50, tmp_path / "gate"
    words = [table(s3_bucket, 4 * shards, tmp_path), "shards.rows=4", "expand.max_new_tokens=16"]
    calm, rough = f"{s3_bucket}/calm", f"{s3_bucket}/rough"
    one = [sys.executable, "-m", "jobs", "synthesize", *words, f"output.uri={calm}"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    subprocess.run(one, cwd=REPOSITORY, env=plain, check=True)
    pools = ["expand.actors={min: 1, max: 3}", "generate.actors={min: 1, max: 3}"]
    command = submit(cluster, tmp_path, *words, f"output.uri={rough}", *pools)
    with (
        engines.fail(LATE.format(early=shards * 3 // 4, gate=str(gate))),
        Job(cluster, command, tmp_path / "rough.log") as job,
    ):
        job.wait_for("half of it", lambda: len(committed_shards(Store(rough))) >= shards // 2, 1800)
        cluster.kill_node(1)
        added = cluster.add()
        job.wait_for("the end of the LLM stage", lambda: not cluster.workers("ExpandStage"), 1800)
        assert len(committed_shards(Store(rough))) < shards
        job.wait_for("an actor on the node that was added", lambda: cluster.workers_of(added, "GenerateStage"))
        gate.touch()
        assert job.status() == 0
        assert f"{4 * shards} = {4 * shards} committed + 0 rejected" in job.said()
    found, wanted = contents(rough), contents(calm)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
