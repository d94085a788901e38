"""Promise number one: kill anything, run the same command again, and the bytes are those of an undisturbed run."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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


def wait_for_records(root: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while len(list(root.glob("_run/shards/*.json"))) < count:
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def generator_actors(driver: int) -> list[int]:
    """Processes of generator actors of the local cluster that ``driver`` started."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes()
            if b"ray::" in title and b"GenerateStage" in title and driver in _ancestors(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _ancestors(pid: int) -> set[int]:
    seen: set[int] = set()
    while pid > 1:
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
        seen.add(pid)
    return seen


def test_killed_driver_and_actors_leave_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, command: Callable[[str], list[str]]
) -> None:
    subprocess.run(command("calm"), check=True, capture_output=True)
    rough = tmp_path / "rough"

    driver = subprocess.Popen(command("rough"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_records(rough, 10, driver)
    driver.kill()
    driver.wait()
    assert len(list(rough.glob("_run/shards/*.json"))) < SHARDS

    driver = subprocess.Popen(command("rough"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    killed = 0
    for records in (30, 70):
        wait_for_records(rough, records, driver)
        for pid in generator_actors(driver.pid):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    _, errors = driver.communicate(timeout=300)
    assert driver.returncode == 0, errors.decode()
    assert killed >= 2
    assert dataset(rough) == dataset(tmp_path / "calm")

    before = {p: p.stat().st_mtime_ns for p in rough.rglob("*") if p.is_file()}
    subprocess.run(command("rough"), check=True, capture_output=True)
    assert {p: p.stat().st_mtime_ns for p in rough.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_run_with_a_sentence_and_leave_finished_shards(
    tmp_path: Path, command: Callable[[str], list[str]], number: signal.Signals, status: int
) -> None:
    driver = subprocess.Popen(command("cut"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for_records(tmp_path / "cut", 5, driver)
    driver.send_signal(number)
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == status
    assert b"the same command goes on from here" in errors
    assert b"Traceback" not in errors
    assert list((tmp_path / "cut/_run/shards").glob("*.json"))


def test_two_drivers_on_one_output_make_one_dataset(tmp_path: Path, command: Callable[[str], list[str]]) -> None:
    first = subprocess.Popen(command("shared"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for_records(tmp_path / "shared", 1, first)
    second = subprocess.run(command("shared"), capture_output=True, check=False)
    _, errors = first.communicate(timeout=300)
    assert (first.returncode, second.returncode) == (0, 0), errors + second.stderr
    assert b"1 other run(s) work on this output too" in second.stderr
    subprocess.run(command("alone"), check=True, capture_output=True)
    assert dataset(tmp_path / "shared") == dataset(tmp_path / "alone")
