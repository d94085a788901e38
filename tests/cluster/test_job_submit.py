"""The same job on a Ray cluster: ``ray start --head``, then ``ray job submit`` as the README says it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commit import committed_shards
from pipeline.storage import Store
from tests import models

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).parent / "ray")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A head node on loopback; yields the address of its dashboard. Ends only what it started."""
    dashboard = free_port()
    # Short: Ray's sockets lie below it, and their paths may have 107 characters.
    scratch = tempfile.mkdtemp(prefix="pm-ray-", dir="/tmp")
    # Ray asks for a token by default; the head and those who submit find the same one in the environment.
    environment = pytest.MonkeyPatch()
    environment.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    environment.setenv("RAY_AUTH_MODE", "token")
    environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={free_port()}", "--num-cpus=2",
         "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={scratch}",
         "--object-store-memory=200000000", "--disable-usage-stats"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/version", timeout=2).read()
                break
            except urllib.error.HTTPError:
                break  # it answers: Ray asks for its token here, which `ray job submit` finds by itself
            except OSError:
                assert head.poll() is None, "the head node ended"
                assert time.monotonic() < deadline, "the dashboard does not answer"
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(scratch, ignore_errors=True)
        environment.undo()


def test_a_submitted_job_makes_the_dataset_and_its_status_is_the_jobs(tmp_path: Path, cluster: str) -> None:
    table = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": [f"a red heart number {i}" for i in range(20)]}), table)
    model = models.save_gan(tmp_path / "gan")

    def submit(*overrides: str) -> subprocess.CompletedProcess[str]:
        # The dashboard answers before the node's agent, which starts jobs, has told it that it is there.
        deadline = time.monotonic() + 300
        while "No available agent" in (ended := once(*overrides)).stderr and time.monotonic() < deadline:
            time.sleep(1)
        return ended

    def once(*overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RAY, "job", "submit", "--address", cluster, "--working-dir", ".", "--", "python", "-m", "jobs.synthesize",
             f"prompts.uri={table}", f"output.uri={tmp_path / 'out'}", f"generate.model={model}", "expand=null",
             "shards.rows=4", *overrides],
            cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip

    done = submit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 = 20 committed + 0 rejected" in done.stdout
    assert len(committed_shards(Store(str(tmp_path / "out")))) == 5

    refused = submit("seed=9")
    assert refused.returncode != 0
    assert "belongs to another run: seed is 0 there and 9 here" in refused.stdout + refused.stderr
