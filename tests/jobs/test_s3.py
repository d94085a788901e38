"""The same job against a real S3 server over HTTP: the same bytes as on local disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import s3fs

from jobs.cli import main
from pipeline.commit import committed_shards, read_records
from pipeline.storage import Store


def test_prompts_and_output_on_s3_give_the_bytes_of_local_disk(
    tmp_path: Path, s3_bucket: str, tiny_gan: Path, local_ray: None
) -> None:
    table = tmp_path / "prompts.parquet"
    columns = {
        "prompt": ["a red heart", "", "一只猫在沙滩上玩耍", "a green tree", "bold " * 20],
        "price": pa.array([None, None, None, "2.50", "1.50"]).cast(pa.decimal128(5, 2)),
        "tags": pa.array([[], [], [], ["a"], ["b", "猫"]], pa.list_(pa.string())),
    }
    pq.write_table(pa.table(columns), table)
    s3fs.S3FileSystem().put_file(str(table), f"{s3_bucket}/in/prompts.parquet")

    def words(prompts: str, output: str, *overrides: str) -> list[str]:
        return [
            "synthesize", f"prompts.uri={prompts}", f"output.uri={output}", f"generate.model={tiny_gan}", "expand=null",
            "shards.rows=2", "limits.max_reject_fraction=1", "--quiet", "limits.max_prompt_chars=50", *overrides,
        ]  # fmt: skip

    def run(prompts: str, output: str, *overrides: str) -> int:
        # Not the shared Ray: its workers were started without the credentials of this server in their environment.
        command = [sys.executable, "-m", "jobs", *words(prompts, output, *overrides)]
        return subprocess.run(command, check=False).returncode

    assert main(words(str(table), str(tmp_path / "out"))) == 0
    assert run(f"{s3_bucket}/in/*.parquet", f"{s3_bucket}/out") == 0
    local, remote = Store(str(tmp_path / "out")), Store(f"{s3_bucket}/out")
    shards = sorted(committed_shards(local))
    assert sorted(committed_shards(remote)) == shards == [0, 1, 2]
    assert read_records(remote, shards) == read_records(local, shards)
    for record in read_records(local, shards):
        for entry in [record["data"], record["rejects"]]:
            if entry is not None:
                assert remote.read(entry["name"]) == local.read(entry["name"])
    assert remote.read("README.md") == local.read("README.md")
    before = {e.name: e.modified for part in ("data", "_run/shards") for e in remote.list(part)}
    assert main(words(f"{s3_bucket}/in/*.parquet", f"{s3_bucket}/out")) == 0
    assert {e.name: e.modified for part in ("data", "_run/shards") for e in remote.list(part)} == before

    # The rejects are a prompt table as they are: with the reason mended, the very rows that were missing are made.
    keys = {"key": os.environ["AWS_ACCESS_KEY_ID"], "secret": os.environ["AWS_SECRET_ACCESS_KEY"],
            "endpoint_url": os.environ["AWS_ENDPOINT_URL"]}  # fmt: skip
    config = tmp_path / "keys.yaml"
    config.write_text(json.dumps({"prompts": {"options": keys}, "storage": {"options": keys}}))
    retried = words(f"{s3_bucket}/out/rejects", f"{s3_bucket}/retry", "limits.max_prompt_chars=500")
    assert main([retried[0], str(config), *retried[1:]]) == 0
    retry = Store(f"{s3_bucket}/retry")
    (record,) = read_records(retry, [0])
    assert (record["rows"], record["committed"], record["reasons"]) == (2, 1, {"empty_prompt": 1})
    made = retry.parse(record["data"]["name"], pq.read_table)
    assert made is not None
    (row,) = made.select(["prompt_id", "prompt", "price", "tags"]).to_pylist()
    rejected = pq.read_table(tmp_path / "out/rejects").to_pylist()
    assert row["prompt_id"] == next(one["id"] for one in rejected if one["prompt"])
    assert (row["prompt"], str(row["price"]), row["tags"]) == ("bold " * 20, "1.50", ["b", "猫"])
    assert not {"reject_stage", "reject_reason", "reject_detail"} & set(made.column_names)
