"""An output of each format version that was ever released is read, verified and resumed, for ever."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from actors.marks import read_marks
from jobs.cli import main
from pipeline.commit import read_records
from pipeline.read_output import sample_rows
from pipeline.storage import Store
from tests.golden.make import FORMATS, command

VERSIONS = sorted(path.name for path in Path(__file__).parent.glob("v*"))


@pytest.fixture
def golden(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / version
    shutil.copytree(Path(__file__).parent / version, copy)
    monkeypatch.chdir(copy)
    return copy


def objects(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_golden_output_is_read_verified_and_resumed(
    golden: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = objects(golden / kind)
    assert main(["verify", kind, "--deep", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sound"]
    assert report["rows"] == {"table": 4, "planned": 4, "committed": 3, "rejected": 1}
    store = Store(kind)
    rows = sample_rows(store, kind, read_records(store, [0, 1]), 10)
    assert [row.values["prompt"] for row in rows] == ["a red heart", "一只猫在沙滩上玩耍", "bold <b>x</b>"]
    assert [row.values["tags"] for row in rows] == [["a"], None, ["b", "c"]]
    assert [read_marks(row.image).image_id for row in rows] == [row.values["id"] for row in rows]
    # A new option of the config must be a `later_option`, or the fingerprint is another and this run is refused.
    assert main(["synthesize", *command(kind)]) == 0, capsys.readouterr().err
    assert "nothing to do: all 2 shards are committed" in capsys.readouterr().err
    assert objects(golden / kind) == before, "not one object was written"


LATER = [pytest.param(kind, marks=[] if kind == "parquet" else pytest.mark.campaign) for kind in FORMATS]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", LATER)
def test_a_golden_output_that_lost_a_record_and_a_shard_is_finished(golden: Path, kind: str) -> None:
    """As its run left it when it was killed between the two: the record is written anew, the shard rendered anew."""
    before = tree(golden / kind)
    gone = ["_run/shards/000000.json", "_run/shards/000001.json"]
    record = json.loads(before[gone[1]])
    gone += [entry["name"] for entry in [record["data"], *record["parts"]]]
    for name in gone:
        (golden / kind / name).unlink()
    # In a process of its own: the Ray of other tests has another working directory, and these paths are relative.
    done = subprocess.run(
        [sys.executable, "-m", "jobs.synthesize", *command(kind)], cwd=golden, capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = tree(golden / kind)
    assert len(after) == len(before)
    kept = [name for name in before if name not in gone[1:]]
    assert [name for name in kept if after[name] != before[name]] == [], "the first shard's record is the same again"
    assert main(["verify", kind, "--deep", "--quiet"]) == 0
    # Other versions of torch and of the codecs may draw other pixels; ids, words and seeds are the format's.
    told = [json.loads(found[gone[1]]) for found in (before, after)]
    for key in ("rows", "committed", "rejected", "fingerprint", "images"):
        assert told[0][key] == told[1][key], key


def tree(root: Path) -> dict[str, bytes]:
    """What the format promises: no notes of how a run went, no page."""
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    notes = ("_run/timings/", "_run/drivers/", "_run/tmp/", "report.html", "README.md")
    return {name: path.read_bytes() for name, path in sorted(found.items()) if not name.startswith(notes)}
