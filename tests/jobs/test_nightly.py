"""Three nights of one config: a first, one that is killed and run again, and one with a few new prompts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml

from jobs.cli import main
from pipeline.commit import committed_shards
from pipeline.storage import Store
from pipeline.verify import verify
from tests.jobs.test_kill import dataset

Night = Callable[..., int]
FIRST, SECOND, THIRD, FOURTH, FIFTH = (f"2026-11-2{day}" for day in range(1, 6))


def settings(base: Path, gan: Path) -> Path:
    """A nightly config in a file, as it would lie beside a cron table."""
    config = {
        "prompts": {"uri": f"{base}/export.parquet"},
        "expand": None,
        "generate": {"model": str(gan), "actors": {"cpus": 0.5}},
        "shards": {"rows": 2},
        "output": {"uri": f"{base}/set/{{date}}"},
        "nightly": {"incremental": True, "keep": 2, "summary": f"{base}/morning/{{date}}.json"},
    }
    path = base / "nightly.yaml"
    base.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


def export(base: Path, prompts: list[str]) -> None:
    pq.write_table(pa.table({"prompt": prompts, "line": range(len(prompts))}), base / "export.parquet")


def told(base: Path, date: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((base / f"morning/{date}.json").read_text())
    return found


def latest(base: Path) -> str:
    return str(json.loads((base / "set/latest.json").read_text())["date"])


def made(base: Path, date: str) -> list[str]:
    shards = [pq.read_table(p, columns=["prompt"]) for p in sorted((base / "set" / date / "data").glob("*.parquet"))]
    return [prompt for table in shards for prompt in table["prompt"].to_pylist()]


def kill_after(command: list[str], output: Path, records: int) -> None:
    """Starts a run and ends it by SIGKILL once it has committed so many shards."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 240
        while len(list(output.glob("_run/shards/*.json"))) < records:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()


def test_three_nights_the_second_killed_the_third_with_a_tenth_of_new_prompts(
    tmp_path: Path, tiny_gan: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path, tiny_gan)
    old, new = [f"a red heart number {i}" for i in range(8)], [f"一只猫 number {i}" for i in range(72)]
    tenth = [f"a green tree number {i}" for i in range(8)]

    def night(date: str, *overrides: str) -> int:
        return main(["nightly", str(config), "--date", date, "--quiet", *overrides])

    export(tmp_path, old)
    assert night(FIRST) == 0
    assert made(tmp_path, FIRST) == old
    assert latest(tmp_path) == FIRST
    assert told(tmp_path, FIRST)["rows"] == {
        "table": 8, "made_before": 0, "planned": 8, "committed": 8, "rejected": 0
    }  # fmt: skip

    # In a process of its own, on the same Ray, so that SIGKILL ends the driver alone.
    export(tmp_path, [*new[:36], *old, *new[36:]])
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "jobs.nightly", str(config), "--date", SECOND, "--address", address]
    second = tmp_path / "set" / SECOND
    kill_after(command, second, 2)
    begun = len(committed_shards(Store(str(second))))
    assert begun < 36, "killed too late to prove anything"
    assert latest(tmp_path) == FIRST, "the pointer does not move before the night is complete"
    # The next export is there already when the night is run again: it makes what it had planned.
    export(tmp_path, [*old, *new, *tenth])
    assert night(SECOND) == 0
    assert made(tmp_path, SECOND) == new
    assert latest(tmp_path) == SECOND
    assert told(tmp_path, SECOND)["state"] == "done"

    capsys.readouterr()
    assert night(THIRD) == 0
    assert made(tmp_path, THIRD) == tenth
    printed = capsys.readouterr().out
    assert "88 = 8 to make + 80 made by earlier runs (2 compared)" in printed
    assert "2026-11-23, moved here" in printed
    # nightly.keep is 2, and yet the first night stays: the next one must know what it made.
    there = sorted(path.name for path in (tmp_path / "set").iterdir())
    assert there == [".latest.json.lock", FIRST, SECOND, THIRD, "latest.json"]
    for date in (FIRST, SECOND, THIRD):
        assert verify(Store(str(tmp_path / "set" / date)), quiet=True).sound

    assert night(FOURTH) == 0, "nothing to do is no failure"
    assert told(tmp_path, FOURTH)["state"] == "nothing to do"
    assert not (tmp_path / "set" / FOURTH).exists()
    assert latest(tmp_path) == THIRD

    # A night that fails says so, and leaves the pointer where it is.
    export(tmp_path, [*old, *new, *tenth, ""])
    assert night(FIFTH) == 1
    assert told(tmp_path, FIFTH)["state"] == "failed"
    assert told(tmp_path, FIFTH)["rejects"] == {"empty_prompt": 1}
    assert "1 of 1 rows were rejected" in told(tmp_path, FIFTH)["error"]
    assert latest(tmp_path) == THIRD

    # Where later nights compare with something else, keep counts: and a finished night is not made again.
    before = dataset(tmp_path / "set" / THIRD)
    assert night(THIRD, f"nightly.since=[{tmp_path}/elsewhere/*]") == 0
    assert told(tmp_path, THIRD)["deleted"] == [FIRST]
    assert dataset(tmp_path / "set" / THIRD) == before
    # A night in the past does not turn the pointer back.
    assert night(SECOND, f"nightly.since=[{tmp_path}/elsewhere/*]") == 0
    assert latest(tmp_path) == THIRD
    assert told(tmp_path, SECOND)["latest"] == {"date": THIRD, "moved": False}


def test_a_date_is_for_synthesize_and_plan_too(
    tmp_path: Path, tiny_gan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(tmp_path, ["a red heart"])
    words = [f"prompts.uri={tmp_path}/export.parquet", f"output.uri={tmp_path}/{{date}}", f"generate.model={tiny_gan}"]
    assert main(["plan", *words, "expand=null", "--date", FIRST]) == 0
    assert f"{tmp_path}/{FIRST}" in capsys.readouterr().out
    for verb in ("plan", "synthesize"):
        assert main([verb, *words, "expand=null"]) == 2
        assert "output.uri holds {date}: say which with --date" in capsys.readouterr().err
    assert main(["nightly", *words, "--date", "tomorrow"]) == 2
    assert main(["nightly", *words, "nightly.summary=https://hooks.example.com/canary"]) == 2
    assert "canary" not in capsys.readouterr().err
    assert main(["nightly", *words, "nightly.since=[a]"]) == 2
    assert "set incremental to true" in capsys.readouterr().err
    assert main(["nightly", words[0], f"output.uri={tmp_path}/set", words[2]]) == 2
    assert "must have {date} once, in its last part" in capsys.readouterr().err


@pytest.mark.campaign
def test_three_nights_killed_many_times_leave_the_bytes_of_undisturbed_ones(tmp_path: Path, tiny_gan: Path) -> None:
    """Each night is a process with a Ray of its own; the rough ones are killed again and again, at other places."""
    exports = [
        [f"a red heart number {i}" for i in range(400)],
        [f"a red heart number {i}" for i in range(800)],
        [f"a red heart number {i}" for i in range(880)],
    ]
    for kind in ("calm", "rough"):
        base = tmp_path / kind
        config = settings(base, tiny_gan)
        for date, prompts in zip((FIRST, SECOND, THIRD), exports, strict=True):
            export(base, prompts)
            command = [sys.executable, "-m", "jobs.nightly", str(config), "--date", date, "--quiet"]
            output, shards = base / "set" / date, (len(prompts) - len(made_so_far(base))) // 2
            for share in (0.1, 0.4, 0.8) if kind == "rough" else ():
                kill_after(command, output, max(1, int(share * shards)))
                export(base, ["an export that came too early"])
            subprocess.run(command, check=True, capture_output=True, timeout=600)
            assert latest(base) == date
    for date in (FIRST, SECOND, THIRD):
        assert _without_places(tmp_path / "rough", date) == _without_places(tmp_path / "calm", date)


def made_so_far(base: Path) -> list[str]:
    dates = sorted(p.name for p in (base / "set").glob("2*"))
    return [prompt for date in dates for prompt in made(base, date)]


def _without_places(base: Path, date: str) -> dict[str, str]:
    """Digests of a night's objects; the note and the choice name where the earlier nights lie, so their rows count."""
    root = base / "set" / date
    found = {n: d for n, d in dataset(root).items() if n.startswith(("data/", "rejects/"))}
    rows = pq.read_table(root / "_run/prompts.parquet").to_pylist()
    return {**found, "prompts": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}
