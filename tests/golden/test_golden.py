"""An output of each format version that was ever released is read, verified and resumed, for ever."""

from __future__ import annotations

import json
import shutil
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
