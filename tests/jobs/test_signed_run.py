"""A run that signs its images: adopted and resumed like any other, and no record knows the key."""

from __future__ import annotations

import io
from pathlib import Path

import c2pa
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.content_credentials import CredentialSettings
from jobs.cli import main
from pipeline.commit import read_records, record_name
from pipeline.read_output import sample_rows
from pipeline.storage import Store
from tests.jobs.test_inspect import signer

__all__ = ["signer"]


def test_a_signed_run_is_adopted_and_resumed(
    tmp_path: Path,
    signer: CredentialSettings,
    tiny_gan: Path,
    local_ray: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, out = tmp_path / "prompts.parquet", tmp_path / "out"
    pq.write_table(pa.table({"prompt": ["a red heart", "a green tree", "一只猫"]}), table)
    words = [
        f"prompts.uri={table}", f"output.uri={out}", f"generate.model={tiny_gan}", "expand=null", "shards.rows=2",
        f"output.c2pa.certificate={signer.certificate}", f"output.c2pa.key={signer.key}",
    ]  # fmt: skip
    assert main(["synthesize", *words]) == 0
    store = Store(str(out))
    records = read_records(store, [0, 1])
    for row in sample_rows(store, "parquet", records, 3):
        assert c2pa.Reader.try_create("image/png", io.BytesIO(row.image)) is not None
    # A lost record is written again from the data that landed first; no second signature takes its place.
    store.remove(record_name(1))
    assert main(["synthesize", *words]) == 0
    assert read_records(store, [0, 1]) == records
    assert main(["verify", str(out), "--deep", "--quiet"]) == 0
    image_id = sample_rows(store, "parquet", records, 1)[0].values["id"]
    capsys.readouterr()
    assert main(["render-row", str(out), image_id, "--to", str(tmp_path / "again.png")]) == 0
    assert "the same pixels" in capsys.readouterr().out
    # Another certificate goes on with the dataset; no signer at all makes another one.
    assert main(["synthesize", *words[:5]]) == 2
    assert "output.c2pa" in capsys.readouterr().err
    secret = Path(signer.key).read_bytes().splitlines()[1]
    for path in out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert secret not in data
            assert path.suffix == ".parquet" or signer.key.encode() not in data
