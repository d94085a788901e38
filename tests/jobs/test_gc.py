"""Garbage is what nobody can commit any more: listed, deleted on demand, never while an outcome may be unknown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import s3fs

from jobs.cli import main
from pipeline.commit import record_name
from pipeline.storage import Store
from tests.pipeline.sound_outputs import FORMATS, make_sound_output

OLD = 3 * 86400


def grow_old(store: Store, names: list[str]) -> None:
    """The store's clock says that these were put three days ago."""
    for name in names:
        path = Path(store.path(name))
        os.utime(path, (path.stat().st_mtime - OLD,) * 2)


def names(store: Store) -> set[str]:
    root = Path(store.root)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", FORMATS)
def test_only_what_nobody_can_commit_any_more_is_deleted(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store, committer = make_sound_output(tmp_path / "out", kind)
    garbage = ["rejects/shard-000001-0123456789ab.parquet", "_run/probe-1", "_run/tmp/promptmill-x/data", "_run/tmp/y",
               "_run/drivers/dead.json"]  # fmt: skip
    kept = ["data/holiday.jpg", "rejects/holiday.parquet", "_run/quarantine/0/data/x",
            "rejects/shard-000099-0123456789ab.parquet"]  # fmt: skip
    open_shard = ["rejects/shard-000002-0123456789ab.parquet"]
    if kind == "files":
        garbage.append("data/shard-000001/000000-0123456789ab.png")
        open_shard.append("data/shard-000002/000000-0123456789ab.png")
    whole = names(store)
    for name in (*garbage, *kept, *open_shard):
        store.create(name, b"x")
    store.remove(record_name(2))  # its data may be about to be committed
    grow_old(store, sorted(names(store)))
    young = "rejects/shard-000003-0123456789ab.parquet"
    store.create(young, b"x")
    before = names(store)

    assert main(["gc", str(store.root)]) == 0
    listed = capsys.readouterr().out
    assert names(store) == before, "without --yes it only lists"
    assert {line.split()[-1] for line in listed.splitlines()[:-1]} == set(garbage)
    assert main(["gc", str(store.root), "--yes"]) == 0
    assert names(store) == before - set(garbage)
    assert not (tmp_path / "out/_run/tmp/promptmill-x").exists()
    assert committer.adopt(2) is not None
    assert names(store) == whole | {*kept, *open_shard, young}


def test_nothing_is_deleted_while_a_note_is_younger_than_the_age(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = make_sound_output(tmp_path / "out", "parquet")
    store.create("_run/probe-1", b"x")
    store.create("_run/drivers/somebody.json", b"{}")
    grow_old(store, ["_run/probe-1"])
    for age in ("24h", "0s"):
        assert main(["gc", str(store.root), "--older-than", age, "--yes"]) == 2
        assert "1 run(s) may be at work" in capsys.readouterr().err
    assert store.read("_run/probe-1") == b"x"
    grow_old(store, ["_run/drivers/somebody.json"])
    assert main(["gc", str(store.root), "--yes"]) == 0
    assert store.read("_run/probe-1") is None
    assert main(["gc", str(store.root), "--older-than", "soon"]) == 2
    assert main(["gc", str(tmp_path / "nowhere")]) == 2


def test_unfinished_uploads_on_s3_are_aborted(s3_bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    store, _ = make_sound_output(f"{s3_bucket}/out", "parquet", 1)
    fs, bucket = s3fs.S3FileSystem(), s3_bucket.removeprefix("s3://")
    for key in ("out/data/shard-000007.parquet", "elsewhere/x"):
        fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
    store.create("_run/probe-1", b"x")
    assert main(["gc", f"{s3_bucket}/out", "--older-than", "1d", "--yes"]) == 0
    assert capsys.readouterr().out.startswith("0 objects")
    assert main(["gc", f"{s3_bucket}/out", "--older-than", "0s", "--yes"]) == 0
    assert "upload" in capsys.readouterr().out
    assert [upload["Key"] for upload in fs.list_multipart_uploads(bucket)] == ["elsewhere/x"]
    assert store.read("_run/probe-1") is None
    assert store.read(record_name(0)) is not None
