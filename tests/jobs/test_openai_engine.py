"""The main job with the engine `openai`: a real endpoint on loopback, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from pipeline.commit import committed_shards, read_records
from pipeline.config import SynthesizeConfig
from pipeline.storage import Store
from pipeline.summary import add_up
from tests.chat_server import MODEL, ChatServer
from tests.jobs.ray_files import found_in, ray_directory

KEY = "the-key-canary"
PROMPTS = ["a red heart", "a green tree", "a forbidden thing", "a blue cat", "bold red x", "a red tree"]


def test_a_run_against_an_endpoint(
    tmp_path: Path, tiny_gan: Path, tiny_llm: Path, capfd: pytest.CaptureFixture[str], local_ray: None
) -> None:
    """Counts and cost in the summary, the key nowhere, the URL no part of the run, an outage one sentence."""
    table, out = tmp_path / "prompts.parquet", tmp_path / "out"
    pq.write_table(pa.table({"prompt": PROMPTS}), table)

    def words(output: Path, base_url: str) -> list[str]:
        return [
            "synthesize", f"prompts.uri={table}", f"output.uri={output}", f"generate.model={tiny_gan}",
            "shards.rows=3", "cluster.local_cpus=2", "expand.actors.cpus=0.5", "generate.actors.cpus=0.5",
            "expand.engine=openai", f"expand.model={MODEL}", "expand.max_new_tokens=6", "expand.openai.key_env=LLM_KEY",
            f"expand.openai.base_url={base_url}", "expand.openai.price_in=1000", "expand.openai.price_out=0",
        ]  # fmt: skip

    with ChatServer(tiny_llm, key=KEY, places=2, retry_after="0.05") as server, ray_directory() as ray_home:
        ended = subprocess.run(
            [sys.executable, "-m", "jobs", *words(out, server.base_url)],
            env={**os.environ, "LLM_KEY": KEY, "RAY_TMPDIR": str(ray_home)},
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert found_in(ray_home, [KEY, *PROMPTS]) == []
    assert ended.returncode == 0, ended.stderr
    totals = add_up(read_records(Store(str(out)), sorted(committed_shards(Store(str(out))))))
    assert (totals.planned, totals.committed, totals.descriptions["refused"]) == (6, 6, 1)
    assert totals.prompt_tokens == 5 * 7, "five rows were answered; the sixth was refused and costs nothing"
    assert f"35 in, {totals.tokens} out, 0.0350 at 1000 and 0 a million" in ended.stdout
    made = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in made if KEY.encode() in path.read_bytes()]
    assert KEY not in ended.stdout + ended.stderr
    record = json.loads((out / "_run/run.json").read_text())
    assert record["identity"]["models"]["expand"] == f"endpoint:{MODEL}"
    assert "127.0.0.1" not in json.dumps(record)
    assert "an endpoint served it" in (out / "README.md").read_text()

    assert main(words(out, "http://127.0.0.1:9/v1")) == 0, "finished: another place of the same model changes nothing"
    capfd.readouterr()
    assert main([*words(tmp_path / "other", "http://127.0.0.1:9/v1"), "expand.openai.patience=1"]) == 1
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert "answered nobody for 1 s" in said
    assert "run again to resume" in said
    assert not list((tmp_path / "other").glob("rejects/*"))


def test_options_of_the_endpoint_leave_older_runs_alone() -> None:
    plain = SynthesizeConfig().identity()
    assert "openai" not in plain["expand"]
    moved = SynthesizeConfig.model_validate({"expand": {"openai": {"base_url": "http://h/v1", "timeout": 5}}})
    assert moved.identity() == plain
    other = SynthesizeConfig.model_validate({"expand": {"openai": {"opening": "continue"}}})
    assert other.identity() != plain


def test_mistakes_are_told_before_ray_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "expand.engine=openai", "expand.model=m"]) == 2
    assert "needs expand.openai.base_url" in capsys.readouterr().err
    assert main(["synthesize", "expand.openai.key_env=sk-abcdef0123456789"]) == 2
    assert "abcdef" not in capsys.readouterr().err
    for word in (
        "expand.openai.base_url=http://me:hunter2canary@h/v1",
        "expand.openai.base_url=http://h/v1?api-key=hunter2canary",
        "expand.openai.body={api_key: hunter2canary}",
    ):
        assert main(["synthesize", word]) == 2, word
        said = capsys.readouterr().err
        assert "hunter2canary" not in said
        assert "credential" in said or "password" in said
