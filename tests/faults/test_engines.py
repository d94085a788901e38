"""Engines that fail inside a real run: a reject, a retry on a fresh actor, or a job that ends with a reason.

All but the engines that never answer share one Ray; those hold its CPUs until their own one ends.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.data import DataContext

from actors.errors import JobError
from pipeline.break_off import break_off, listen
from pipeline.commit import committed_shards, read_records
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.storage import Store
from pipeline.summary import Totals, account
from pipeline.synthesize import synthesize
from tests.faults.engines import Engines

PROMPTS = ["a red heart", "a green tree", "poison", "a photo of a blue cat", "bold red x", "a red tree"]
ROWS, SHARDS = len(PROMPTS), 3

Told = Callable[..., list[str]]


@pytest.fixture
def told(tmp_path: Path, tiny_gan: Path, tiny_llm: Path) -> Told:
    """The words of a run of six rows in three shards, with a language model and a generator."""
    table = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": PROMPTS}), table)

    def told(*overrides: str) -> list[str]:
        return [
            f"prompts.uri={table}", f"output.uri={tmp_path / 'out'}", f"generate.model={tiny_gan}",
            f"expand.model={tiny_llm}", "expand.max_new_tokens=6", "shards.rows=2", "limits.max_reject_fraction=1",
            *overrides,
        ]  # fmt: skip

    return told


def run(told: list[str]) -> None:
    synthesize(load_config(SynthesizeConfig, None, told), quiet=True)


def totals(tmp_path: Path) -> Totals:
    store = Store(str(tmp_path / "out"))
    return account(read_records(store, sorted(committed_shards(store))), SHARDS, ROWS)


ROW_FAULTS = """
def render(real, self, jobs):
    import torch
    if any(job.text == "a red heart" for job in jobs):
        raise ValueError("this row")
    if any(job.text == "a green tree" for job in jobs) or len(jobs) > 1:
        raise torch.OutOfMemoryError("out of memory")
    if jobs[0].text == "poison":
        decode = self._model.generator.decode
        self._model.generator.decode = lambda *given: decode(*given) * float("nan")
        try:
            return real(self, jobs)
        finally:
            self._model.generator.decode = decode
    return real(self, jobs)
def generate(real, self, context, requests, **more):
    if any("bold red x" in request.text for request in requests):
        raise ValueError("this row")
    return real(self, context, requests, **more)
"""


def test_what_fails_one_row_is_a_reject_with_its_reason(
    tmp_path: Path, told: Told, engines: Engines, local_ray: None
) -> None:
    """An exception, an image that fits into no memory, a network that makes NaN: rejects. One that the language model
    fails at is drawn from its own prompt."""
    with engines.fail(ROW_FAULTS):
        run(told())
    made = totals(tmp_path)
    assert dict(made.reasons) == {"render_failed": 1, "out_of_memory": 1, "not_finite": 1}
    assert (made.planned, made.committed, made.rejected) == (6, 3, 3)
    rows = pq.read_table(tmp_path / "out/data").to_pylist()
    assert [(row["prompt"], row["description"]) for row in rows if row["description_status"] == "failed"] == [
        ("bold red x", "bold red x")
    ]


DEATHS = """
import os, signal, sys
def load_llm(real, self, *given, **named):
    if first(2, "llm-load"):
        raise OSError("the weights could not be read")
    real(self, *given, **named)
def generate(real, self, context, requests, **more):
    if first(1, "llm-killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, context, requests, **more)
def render(real, self, jobs):
    texts = [job.text for job in jobs]
    if "a red heart" in texts and first(1, "gan-device"):
        raise RuntimeError("CUDA error: device-side assert triggered")
    if "a photo of a blue cat" in texts and first(1, "gan-sys"):
        sys.exit(1)
    return real(self, jobs)
"""
MORE_DEATHS = """
import os, signal, sys
def load_gan(real, self, *given, **named):
    if first(2, "gan-load"):
        raise OSError("the weights could not be read")
    real(self, *given, **named)
def generate(real, self, context, requests, **more):
    if first(1, "llm-device"):
        raise RuntimeError("CUDA error: device-side assert triggered")
    if first(1, "llm-os"):
        os._exit(1)
    if first(1, "llm-sys"):
        sys.exit(1)
    return real(self, context, requests, **more)
def render(real, self, jobs):
    texts = [job.text for job in jobs]
    if "bold red x" in texts and first(1, "gan-os"):
        os._exit(1)
    if "a red tree" in texts and first(1, "gan-killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, jobs)
"""


@pytest.mark.parametrize(
    ("fault", "faults"), [(DEATHS, 5), pytest.param(MORE_DEATHS, 7, marks=pytest.mark.campaign)], ids=["few", "more"]
)
def test_failed_loads_and_engines_that_die_in_a_living_actor_meet_a_fresh_one(
    tmp_path: Path, told: Told, engines: Engines, local_ray: None, fault: str, faults: int
) -> None:
    """Loads that fail, a lost device, `os._exit`, `sys.exit`, a SIGKILL as the kernel's: every row is made anyway."""
    with engines.fail(fault):
        run(told())
    made = totals(tmp_path)
    assert (made.planned, made.committed, made.rejected) == (6, 6, 0)
    assert len(engines.met()) == faults, f"a fault was never met, only {engines.met()}"


FAILING_LOAD = """
def {which}(real, self, *given, **named):
    raise OSError("the weights could not be read")
"""


@pytest.mark.parametrize("which", ["load_llm", pytest.param("load_gan", marks=pytest.mark.campaign)])
def test_a_model_that_never_loads_ends_the_job_with_the_reason(
    tmp_path: Path, told: Told, engines: Engines, local_ray: None, which: str
) -> None:
    with engines.fail(FAILING_LOAD.format(which=which)), pytest.raises(JobError) as caught:
        run(told())
    assert "the weights could not be read" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert committed_shards(Store(str(tmp_path / "out"))) == set()


STANDSTILL = """
import os, re, sys, time
MARKS = os.path.join(os.path.dirname(sys.modules["sitecustomize"].__file__), "marks")
def generate(real, self, context, requests, **more):
    for request in requests:
        first(1, "described-" + re.findall("heart number ([0-9]+)", request.text)[-1])
    return real(self, context, requests, **more)
def render(real, self, jobs):
    if first(1, "standing"):
        time.sleep(3)
        first(1, f"ahead-{sum(name.startswith('described-') for name in os.listdir(MARKS))}")
        first(1, "open")
    while not os.path.exists(os.path.join(MARKS, "open-0")):
        time.sleep(0.05)
    return real(self, jobs)
"""


def test_descriptions_run_a_few_shards_ahead_of_the_images_and_no_further(
    tmp_path: Path, told: Told, engines: Engines, local_ray: None
) -> None:
    """What waits between the stages is lost with the run: here the image stage stands still for three seconds."""
    table = tmp_path / "many.parquet"
    pq.write_table(pa.table({"prompt": [f"a red heart number {row}" for row in range(16)]}), table)
    with engines.fail(STANDSTILL):
        run(told(f"prompts.uri={table}", "shards.rows=1", "expand.max_new_tokens=2"))
    (ahead,) = (int(name.split("-")[1]) for name in engines.met() if name.startswith("ahead-"))
    # In hand in the image actor 3, waiting for it 4, and 2 that the language model had in hand when the fourth came.
    assert 0 < ahead <= 9
    assert len(committed_shards(Store(str(tmp_path / "out")))) == 16


HANG = """
def {which}(real, self, *given, **named):
    import threading
    threading.Event().wait()
"""


LATER = [pytest.param(which, marks=pytest.mark.campaign) for which in ("generate", "load_llm", "load_gan")]


@pytest.mark.parametrize("which", ["render", *LATER])
def test_an_engine_that_never_answers_ends_the_job_and_the_next_run_resumes(
    tmp_path: Path, told: Told, engines: Engines, local_ray: None, which: str
) -> None:
    with engines.fail(HANG.format(which=which)):
        ended = subprocess.run(
            [sys.executable, "-m", "jobs.synthesize", *told("limits.stall_timeout=5", "cluster.local_cpus=2")],
            env={**os.environ, "PYTHONPATH": f"{engines.directory}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    # Which stage stood still depends on how far a busy machine had come by then.
    last = ended.stderr.strip().splitlines()[-1]
    assert re.search(r"no shard was committed for 5 s .* with 3 left; .+; run again to resume", last)
    assert committed_shards(Store(str(tmp_path / "out"))) == set()
    run(told())
    assert totals(tmp_path).committed == 6


def test_work_that_breaks_off_has_no_thread_left_that_could_meet_a_ray_which_is_gone(
    tmp_path: Path, local_ray: None
) -> None:
    """Ray's core ends a process at once, its reason untold, when Ray Data's scheduler asks for more than is there."""
    go = tmp_path / "go"

    def wait(batch: dict[str, object]) -> dict[str, object]:
        while not go.exists():
            time.sleep(0.1)
        return batch

    listen(DataContext.get_current())
    dataset = ray.data.range(2, override_num_blocks=2).map_batches(wait)
    ended: list[BaseException] = []

    def consume() -> None:
        try:
            list(dataset.iter_batches(prefetch_batches=0))
        except BaseException as error:  # noqa: BLE001 - looked at below
            ended.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    try:
        while not schedulers():
            time.sleep(0.1)
        break_off(consumer, timeout=60)
        assert not consumer.is_alive()
        assert ended
        assert not schedulers()
    finally:
        go.touch()
    assert dataset.count() == 2, "only that work was asked to end"


def schedulers() -> list[str]:
    """The threads in which Ray Data runs an execution."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]
