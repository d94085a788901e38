"""A whole run whose output is encrypted: nothing readable at rest; resumed, rendered again and retried with the key."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from pipeline.commit import read_records
from pipeline.config_stages import Prompts
from pipeline.parquet_keys import KEY
from pipeline.prompts import open_table
from pipeline.read_output import sample_rows
from pipeline.storage import Store
from tests.jobs.ray_files import found_in, ray_directory

CANARY = "confidential-canary"


def test_an_encrypted_run_is_read_resumed_and_retried_with_its_key_alone(
    tmp_path: Path, tiny_gan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY, base64.b64encode(b"k" * 32).decode())
    prompts = [f"{CANARY} a red heart", f"{CANARY} " * 20, f"{CANARY} a green tree"]
    pq.write_table(pa.table({"prompt": prompts, "patient": [CANARY] * 3}), tmp_path / "prompts.parquet")
    output = tmp_path / "out"
    words = [
        f"prompts.uri={tmp_path}/prompts.parquet", f"output.uri={output}", f"generate.model={tiny_gan}", "expand=null",
        "shards.rows=2", "limits.max_reject_fraction=1", "limits.max_prompt_chars=100", "output.encryption={}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "jobs.synthesize", *words]
    with ray_directory() as ray_home:
        told = subprocess.run(
            command, check=True, capture_output=True, text=True, env=os.environ | {"RAY_TMPDIR": str(ray_home)}
        )
        assert found_in(ray_home, [CANARY, os.environ[KEY]]) == []
    assert CANARY not in told.stdout + told.stderr
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert not any(CANARY.encode() in data or b"\x89PNG" in data for data in before.values())

    store = Store(str(output))
    records = read_records(store, [0, 1])
    rows = sample_rows(store, "parquet", records, 9)
    assert [row.values["patient"] for row in rows] == [CANARY] * 2
    assert open_table(Prompts(uri=f"{output}/rejects")).rows == 1
    capsys.readouterr()
    assert main(["synthesize", *words]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert main(["render-row", str(output), rows[0].values["id"], "--to", str(tmp_path / "again.png")]) == 0
    assert "the same bytes" in capsys.readouterr().out

    monkeypatch.setenv(KEY, base64.b64encode(b"o" * 32).decode())
    assert main(["synthesize", *words]) == 2
    assert "encryption_key is" in capsys.readouterr().err  # there and here, as what tells two keys apart
    monkeypatch.delenv(KEY)
    assert main(["synthesize", *words]) == 2
    assert f"needs the environment variable {KEY}" in capsys.readouterr().err
    assert main(["render-row", str(output), rows[0].values["id"]]) == 2
    assert "is encrypted: set" in capsys.readouterr().err
