"""Engines that fail inside a real run: a reject, a retry on a fresh actor, or a job that ends with a reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commit import committed_shards, read_records
from pipeline.storage import Store
from pipeline.summary import Totals, account
from tests import models
from tests.faults.engines import plant

PROMPTS = ["a red heart", "a green tree", "poison", "a photo of a blue cat", "bold red x", "a red tree"]
ROWS, SHARDS = len(PROMPTS), 3

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_gan(tmp_path_factory.mktemp("gan"))


@pytest.fixture
def run(tmp_path: Path, gan: Path) -> Run:
    """A run of six rows in three shards, in processes of its own; ``fault`` changes the renderer in its workers."""
    table = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": PROMPTS}), table)

    def run(fault: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        place = plant(tmp_path / f"fault{time.monotonic_ns()}", fault)
        return subprocess.run(
            [sys.executable, "-m", "jobs.synthesize", f"prompts.uri={table}", f"output.uri={tmp_path / 'out'}",
             f"generate.model={gan}", "expand=null", "shards.rows=2", "limits.max_reject_fraction=1",
             "cluster.local_cpus=2", *overrides],
            env={**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip

    return run


def totals(tmp_path: Path) -> Totals:
    store = Store(str(tmp_path / "out"))
    return account(read_records(store, sorted(committed_shards(store))), SHARDS, ROWS)


def last_words(ended: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip().splitlines()[-1]


ROW_FAULTS = """
def broken(self, jobs):
    import torch
    if any(job.text == "a red heart" for job in jobs):
        raise ValueError("this row")
    if any(job.text == "a green tree" for job in jobs) or len(jobs) > 1:
        raise torch.OutOfMemoryError("out of memory")
    if jobs[0].text == "poison":
        decode = self._model.generator.decode
        self._model.generator.decode = lambda *given: decode(*given) * float("nan")
        try:
            return render(self, jobs)
        finally:
            self._model.generator.decode = decode
    return render(self, jobs)
GanBackend.render = broken
"""


def test_what_fails_one_row_is_a_reject_with_its_reason(tmp_path: Path, run: Run) -> None:
    """An exception, an image that fits into no memory, and a network that makes NaN: three rows, three reasons."""
    ended = run(ROW_FAULTS)
    assert ended.returncode == 0, ended.stderr
    made = totals(tmp_path)
    assert dict(made.reasons) == {"render_failed": 1, "out_of_memory": 1, "not_finite": 1}
    assert (made.planned, made.committed, made.rejected) == (6, 3, 3)


DEATHS = """
def failing(self, *given):
    if first(2, "load"):
        raise OSError("the weights could not be read")
    init(self, *given)
def dying(self, jobs):
    texts = [job.text for job in jobs]
    if "a red heart" in texts and first(1, "device"):
        raise RuntimeError("CUDA error: device-side assert triggered")
    if "a photo of a blue cat" in texts and first(1, "os"):
        os._exit(1)
    if "bold red x" in texts and first(1, "sys"):
        sys.exit(1)
    return render(self, jobs)
GanBackend.__init__, GanBackend.render = failing, dying
"""


def test_failed_loads_and_engines_that_die_in_a_living_actor_meet_a_fresh_one(tmp_path: Path, run: Run) -> None:
    """Two loads that fail, a lost device, `os._exit` and `sys.exit` in the stage: every row is made all the same."""
    ended = run(DEATHS)
    assert ended.returncode == 0, ended.stderr
    made = totals(tmp_path)
    assert (made.planned, made.committed, made.rejected) == (6, 6, 0)
    assert len(list(tmp_path.glob("fault*/marks/*"))) == 5, "a fault was never met"


FAILING_LOAD = """
def failing(self, *given):
    if first(1000, "load"):
        raise OSError("the weights could not be read")
    init(self, *given)
GanBackend.__init__ = failing
"""


def test_a_model_that_never_loads_ends_the_job_with_the_reason(tmp_path: Path, run: Run) -> None:
    ended = run(FAILING_LOAD)
    assert ended.returncode == 1
    assert "the weights could not be read" in last_words(ended)
    assert committed_shards(Store(str(tmp_path / "out"))) == set()


def test_an_engine_that_never_answers_ends_the_job_and_the_next_run_resumes(tmp_path: Path, run: Run) -> None:
    hang = """
def hanging(self, jobs):
    import threading
    threading.Event().wait()
GanBackend.render = hanging
"""
    ended = run(hang, "limits.stall_timeout=20")
    assert ended.returncode == 1
    # Which stage stood still depends on how far a busy machine had come by then.
    assert re.search(r"no shard was committed for 20 s .* with 3 left; .+; run again to resume", last_words(ended))
    assert committed_shards(Store(str(tmp_path / "out"))) == set()
    assert run("pass").returncode == 0
    assert totals(tmp_path).committed == 6
