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

SHARDS = 150


@pytest.fixture
def command(tmp_path: Path, tiny_gan: Path) -> Callable[[str], list[str]]:
    table = tmp_path / "prompts.parquet"
    prompts = [f"a red heart number {i}" if i % 7 else "" for i in range(2 * SHARDS)]
    pq.write_table(pa.table({"prompt": prompts}), table)

    def command(output: str) -> list[str]:
        return [
            sys.executable, "-m", "jobs.synthesize", f"prompts.uri={table}", f"output.uri={tmp_path / output}",
            f"generate.model={tiny_gan}", "expand=null", "shards.rows=2", "limits.max_reject_fraction=1",
        ]  # fmt: skip

    return command


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


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if pid in _ancestors(int(entry.name))[1:]:
                    found.append(int(entry.name))
    return found


def wait_for_records(root: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while len(list(root.glob("_run/shards/*.json"))) < count:
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


def test_killed_driver_and_actors_leave_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, command: Callable[[str], list[str]]
) -> None:
    subprocess.run(command("calm"), check=True, capture_output=True)
    rough = tmp_path / "rough"

    with driver(command("rough")) as first:
        wait_for_records(rough, 10, first)
        first.kill()
        first.wait()
    assert len(list(rough.glob("_run/shards/*.json"))) < SHARDS

    killed = 0
    with driver(command("rough")) as second:
        for records in (30, 70):
            wait_for_records(rough, records, second)
            for pid in generator_actors(second.pid):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        _, errors = second.communicate(timeout=300)
        assert second.returncode == 0, errors.decode()
    assert killed >= 2
    assert dataset(rough) == dataset(tmp_path / "calm")

    before = {p: p.stat().st_mtime_ns for p in rough.rglob("*") if p.is_file()}
    subprocess.run(command("rough"), check=True, capture_output=True)
    assert {p: p.stat().st_mtime_ns for p in rough.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_run_with_a_sentence_and_leave_finished_shards(
    tmp_path: Path, command: Callable[[str], list[str]], number: signal.Signals, status: int
) -> None:
    with driver(command("cut")) as run:
        wait_for_records(tmp_path / "cut", 5, run)
        run.send_signal(number)
        _, errors = run.communicate(timeout=60)
        assert run.returncode == status
    assert b"the same command goes on from here" in errors
    assert b"Traceback" not in errors
    assert list((tmp_path / "cut/_run/shards").glob("*.json"))


def test_two_drivers_on_one_output_make_one_dataset(tmp_path: Path, command: Callable[[str], list[str]]) -> None:
    """The first driver is paused while the second one finishes everything; when it wakes it changes nothing."""
    shared = tmp_path / "shared"
    with driver(command("shared")) as first:
        wait_for_records(shared, 1, first)
        first.send_signal(signal.SIGSTOP)
        try:
            second = subprocess.run(command("shared"), capture_output=True, check=False, timeout=300)
            assert second.returncode == 0, second.stderr.decode()
            before = dataset(shared)
        finally:
            first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=300)
        assert first.returncode == 0, errors.decode()
    assert b"1 other run(s) work on this output too" in second.stderr
    assert dataset(shared) == before
    subprocess.run(command("alone"), check=True, capture_output=True)
    assert dataset(shared) == dataset(tmp_path / "alone")
