"""Promise number one: kill anything, run the same command again, and the bytes are those of an undisturbed run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.synthesize import synthesize

SHARDS = 56


Command = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, tiny_gan: Path) -> Command:
    table = tmp_path_factory.mktemp("table") / "prompts.parquet"
    prompts = [f"a red heart number {i}" if i % 7 else "" for i in range(2 * SHARDS)]
    pq.write_table(pa.table({"prompt": prompts}), table)

    def command(output: Path) -> list[str]:
        return [
            sys.executable, "-m", "jobs.synthesize", f"prompts.uri={table}", f"output.uri={output}",
            f"generate.model={tiny_gan}", "expand=null", "shards.rows=2", "limits.max_reject_fraction=1",
        ]  # fmt: skip

    return command


def read(command: list[str]) -> SynthesizeConfig:
    """The config of a command."""
    return load_config(SynthesizeConfig, None, command[3:])


@pytest.fixture(scope="module")
def calm(command: Command, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of an undisturbed run."""
    output = tmp_path_factory.mktemp("calm") / "out"
    synthesize(read(command(output)), quiet=True)
    return dataset(output)


def dataset(root: Path) -> dict[str, str]:
    """Digest of every object but the notes on how the run went."""
    notes = {root / "_run" / name for name in ("timings", "drivers", "tmp")}
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name != "report.html" and not notes & set(p.parents)
    }


@contextlib.contextmanager
def driver(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own; it and the Ray that it started end with the block, whatever the test finds."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        below = descendants(process.pid)
        process.kill()
        process.wait()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kill_when(holds: Callable[[], object], command: list[str], patience: float = 300.0) -> None:
    """Starts a run, and SIGKILLs it and all that it started as soon as something holds."""
    with driver(command) as killed:
        deadline = time.monotonic() + patience
        while not holds():
            assert killed.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        killed.kill()
        assert killed.wait() == -signal.SIGKILL


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if pid in _ancestors(int(entry.name))[1:]:
                    found.append(int(entry.name))
    return found


def records_of(root: Path) -> list[Path]:
    return list(root.glob("_run/shards/*.json"))


def wait_for_records(root: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while len(records_of(root)) < count:
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def generator_actors(driver: int) -> list[int]:
    """Processes of generator actors of the local cluster that ``driver`` started."""
    found = []
    for pid in descendants(driver):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"ray::" in title and b"GenerateStage" in title:
                found.append(pid)
    return found


def _ancestors(pid: int) -> list[int]:
    """``pid`` and those above it, the nearest first."""
    line = [pid]
    while line[-1] > 1:
        stat = Path(f"/proc/{line[-1]}/stat").read_text()
        line.append(int(stat.rpartition(")")[2].split()[1]))
    return line


def ended(run: subprocess.Popen[bytes], number: signal.Signals, status: int) -> None:
    """Ends a start by a signal; it says how to go on."""
    run.send_signal(number)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == status, errors.decode()
    assert b"Traceback" not in errors
    assert "the same command goes on from here" in errors.decode()


def test_signalled_and_killed_drivers_and_killed_actors_leave_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, command: Command, calm: dict[str, str]
) -> None:
    """One dataset: SIGKILL of actors, twice, a spot machine's SIGTERM, SIGKILL of the driver; at last no work."""
    rough = tmp_path / "rough"
    killed = 0
    with driver(command(rough)) as run:
        for records in (4, 12):
            wait_for_records(rough, records, run)
            for pid in generator_actors(run.pid):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        wait_for_records(rough, 18, run)
        ended(run, signal.SIGTERM, 143)
    assert killed >= 2
    assert len(records_of(rough)) < SHARDS
    kill_when(lambda: len(records_of(rough)) > 32, command(rough))
    assert synthesize(read(command(rough)), quiet=True).made_shards > 0
    assert dataset(rough) == calm

    before = {p: p.stat().st_mtime_ns for p in rough.rglob("*") if p.is_file()}
    assert synthesize(read(command(rough)), quiet=True).made_shards == 0
    assert {p: p.stat().st_mtime_ns for p in rough.rglob("*") if p.is_file()} == before


@pytest.mark.campaign
def test_ctrl_c_ends_a_run_and_the_same_command_goes_on(tmp_path: Path, command: Command, calm: dict[str, str]) -> None:
    output = tmp_path / "out"
    with driver(command(output)) as run:
        wait_for_records(output, 3, run)
        ended(run, signal.SIGINT, 130)
    assert 3 <= len(records_of(output)) < SHARDS
    assert synthesize(read(command(output)), quiet=True).made_shards > 0
    assert dataset(output) == calm


@pytest.mark.campaign
def test_two_drivers_on_one_output_make_one_dataset(tmp_path: Path, command: Command, calm: dict[str, str]) -> None:
    """The first driver is paused while the second one finishes everything; when it wakes it changes nothing."""
    shared = tmp_path / "shared"
    with driver(command(shared)) as first:
        wait_for_records(shared, 1, first)
        first.send_signal(signal.SIGSTOP)
        try:
            second = subprocess.run(command(shared), capture_output=True, check=False, timeout=300)
            assert second.returncode == 0, second.stderr.decode()
            before = dataset(shared)
        finally:
            first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=300)
        assert first.returncode == 0, errors.decode()
    assert b"1 other run(s) work on this output too" in second.stderr
    assert dataset(shared) == before == calm


def test_a_driver_that_wakes_up_when_its_shards_are_made_adopts_them(
    tmp_path: Path, command: Command, local_ray: None
) -> None:
    """The same within one process: the first run waits between its plan and its work while the second one finishes."""
    pq.write_table(pa.table({"prompt": [f"a red heart number {i}" for i in range(7)]}), tmp_path / "few.parquet")
    config = read([*command(tmp_path / "out"), f"prompts.uri={tmp_path}/few.parquet"])
    made: dict[str, str] = {}

    def late(remark: str) -> None:
        if "shards to make" in remark:
            assert synthesize(config, quiet=True).made_shards == 4
            made.update(dataset(tmp_path / "out"))

    first = synthesize(config, quiet=True, say=late)
    assert (first.made_shards, first.adopted_shards) == (0, 4)
    assert dataset(tmp_path / "out") == made
