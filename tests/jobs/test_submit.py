"""What `promptmill submit` says before it asks any cluster, and what it packs. The cluster is in tests/cluster."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import UserError
from jobs import submit as job_submit
from jobs.cli import main
from pipeline.package import Package

# Nothing listens there: a mistake that is told before the cluster is asked is not "no Ray dashboard answers".
NOWHERE = ["--address", "http://127.0.0.1:9"]
SAFE = "output.uri=s3://bucket/set"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"prompt": ["a red heart"]}), tmp_path / "prompts.parquet")
    (tmp_path / "night.yaml").write_text("prompts: {uri: prompts.parquet}\noutput: {uri: 's3://bucket/set'}\n")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["night.yaml", "expand.varaints=2"], "nearest known one is 'expand.variants'"),
        (["missing.yaml"], "no config file at 'missing.yaml'"),
        (["night.yaml", "prompts.uri=other.parquet"], "nothing is at 'other.parquet' in the working directory"),
        (["night.yaml", "prompts.uri=part-*.parquet"], "nothing is at 'part-*.parquet'"),
        (["night.yaml", "prompts.uri=out/mine"], "'out/mine' does not go along"),
        (["night.yaml", "prompts.uri=prompts.parquet", "--exclude", "*.parquet"], "--exclude leaves out"),
        (["night.yaml", "output.uri=out/set"], "would be lost; name a bucket"),
        (["night.yaml", "storage.options.secret=hunter2hunter2"], "Ray's job table"),
        (["night.yaml", "prompts.uri=s3://key:hunter2hunter2@bucket/x"], "Ray's job table"),
        (["night.yaml", "--metadata", "api_token=hunter2hunter2"], "Ray's job table"),
        (["night.yaml", "--job", "nightly", "nightly.summary=https://hooks/hunter2"], "webhook's URL is a secret"),
        (["hook.yaml", "--job", "nightly"], "nightly.summary in 'hook.yaml' is a credential"),
        (["secret.yaml"], "storage.options.secret in 'secret.yaml' is a credential"),
        (["night.yaml", "--runtime-env", "env.yaml"], "env_vars.AWS_SECRET_ACCESS_KEY in 'env.yaml' is a credential"),
        (["night.yaml", "--job", "synthesise"], "no job 'synthesise' can be submitted"),
        (["night.yaml", "--job", "refine", "--date", "2026-11-26"], "--date is for the jobs synthesize and nightly"),
        (["night.yaml", "--job", "nightly", "--date", "tomorrow"], "is no date; write it as --date YYYY-MM-DD"),
        (["night.yaml", "--job", "nightly", "nightly.kepe=2"], "nearest known one is 'nightly.keep'"),
        (["night.yaml", "--id", "a b"], "is no name of a job"),
        (["night.yaml", "--resource", "licence=many"], "the amount must be a number"),
        (["night.yaml", "--working-dir", "nowhere"], "is no directory"),
        (["../outside.yaml"], "lies outside the working directory"),
        (["--job", "evaluate", "generated.uri=out/mine"], "'out/mine' does not go along"),
        (["night.yaml", "--token-file", "nowhere"], "no token file at 'nowhere'"),
    ],
)
def test_mistakes_are_told_before_the_cluster_is_asked(
    work: Path, words: list[str], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (work / "out/mine").mkdir(parents=True)
    (work.parent / "outside.yaml").write_text("{}")
    (work / "secret.yaml").write_text("output: {uri: 's3://b/s'}\nstorage: {options: {secret: hunter2hunter2}}\n")
    (work / "hook.yaml").write_text("output: {uri: 's3://b/{date}'}\nnightly: {summary: 'https://hooks/hunter2'}\n")
    (work / "env.yaml").write_text("env_vars: {AWS_SECRET_ACCESS_KEY: hunter2hunter2}\n")
    assert main(["submit", *words, *NOWHERE]) == 2
    told = capfd.readouterr().err
    assert sentence in told
    assert "hunter2" not in told


def test_a_jobs_log_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever wrote the prompts wrote some of what a job's libraries print."""

    class Jobs:
        address = "http://h:8265"

        def follow(self, job: str, write: Callable[[str], None]) -> int:
            write("18/60 shards\n\x1b]0;owned\x07\x1b[2J\rpromptmill: done\x9b31m \u202egnp.exe\n")
            return 0

    assert job_submit._follow(Jobs(), "j") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "18/60 shards"
    assert not set("\x1b\x07\r\x9b\u202e") & set(out)
    assert "\\x1b[2J\\rpromptmill: done" in out


def test_the_command_ends_with_the_jobs_status(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_submit, "attach", lambda job, **where: 3)
    monkeypatch.setattr(job_submit, "run", lambda *told, **where: 4)
    assert main(["submit", "--attach", "j"]) == 3
    assert main(["submit", "night.yaml", "--follow"]) == 4


@pytest.mark.parametrize("address", [[], ["--address", "auto"], ["--address", "ray://host:10001"]])
def test_the_address_is_the_dashboards(work: Path, address: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "night.yaml", *address]) == 2
    assert "such as http://host:8265" in capfd.readouterr().err


def test_a_sound_submission_gets_as_far_as_the_cluster(work: Path) -> None:
    """In a process of its own, as Ray looks at its variables once; another cluster's variables do not win."""
    (work / "night.yaml").write_text("prompts: {uri: prompts.parquet}\noutput: {uri: '${oc.env:PM_BUCKET}/set'}\n")
    ended = subprocess.run(
        [sys.executable, "-m", "jobs", "submit", "night.yaml", "expand=null", *NOWHERE],
        env=os.environ | {"RAY_ADDRESS": "http://127.0.0.1:10", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "config 'night.yaml' uses PM_BUCKET, which is not set here" in ended.stderr
    assert "no Ray dashboard answers at http://127.0.0.1:9" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_goes_along(tmp_path: Path) -> None:
    for name in (
        "night.yaml", "data/a.parquet", "data/b.tmp", "deep/keep.txt", "deep/drop.txt", "big.bin", ".git/config",
        ".venv/bin/python", "out/set/report.html", "deep/__pycache__/x.pyc", ".env",
    ):  # fmt: skip
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / ".gitignore").write_text("*.tmp\n")
    (tmp_path / "deep/.rayignore").write_text("/drop.txt\n")
    (tmp_path / "link.txt").symlink_to(tmp_path / "night.yaml")
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    package = Package(tmp_path, ["big.*"])
    sent = zipfile.ZipFile(BytesIO(package.archive()))
    assert sorted(sent.namelist()) == sorted(
        [".gitignore", "night.yaml", "data/a.parquet", "deep/keep.txt", "deep/.rayignore", "link.txt"]
    )
    assert sent.read("link.txt") == b"night.yaml"
    reasons = {name: package.why_not(Path(name)) for name in ("data/b.tmp", "deep/drop.txt", "big.bin", "linked/a")}
    assert "'.gitignore'" in str(reasons["data/b.tmp"])
    assert "'.rayignore'" in str(reasons["deep/drop.txt"])
    assert "--exclude" in str(reasons["big.bin"])
    assert "link to a directory" in str(reasons["linked/a"])
    assert package.why_not(Path("data/a.parquet")) is None


def test_equal_directories_are_equal_archives(tmp_path: Path) -> None:
    """Ray names a package by its content, and sends it once."""
    digests = set()
    for copy in ("one", "two"):
        (tmp_path / copy).mkdir()
        for number in range(3):
            (tmp_path / copy / f"{number}.txt").write_text(str(number))
        os.utime(tmp_path / copy / "1.txt", (len(copy) + len(digests), 7.0e8))
        digests.add(hashlib.sha256(Package(tmp_path / copy).archive()).hexdigest())
    assert len(digests) == 1


def test_what_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.package.LIMIT", 1 << 20)
    (tmp_path / "weights.bin").write_bytes(os.urandom(2 << 20))
    with pytest.raises(UserError, match=r"larger than the 1 MiB that Ray takes; the largest files are 'weights.bin'"):
        Package(tmp_path).archive()
