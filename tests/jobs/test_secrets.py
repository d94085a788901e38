"""Credentials and prompts stay where they belong: not in output, logs, records, pages, nor in what Ray keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.storage import Store
from pipeline.storage_errors import public_uri
from pipeline.without_secrets import holds_secret, without_secrets
from tests.faults.engines import Engines
from tests.jobs.ray_files import found_in, ray_directory

ROOT = Path(__file__).resolve().parents[2]
CANARY = "hunter2canary"
PROMPT = "zyxwv patient canary heart"


@pytest.mark.parametrize(
    "text",
    [
        f"s3://user:{CANARY}@bucket/x",
        f"s3://user:{CANARY}/{CANARY}@bucket/x is gone",
        f"https://h/x.parquet?X-Amz-Credential={CANARY}&X-Amz-Signature={CANARY}",
        f"GET https://acct.blob.core.windows.net/c/x?sv=2024&sig={CANARY}: 403",
        f"simplecache::s3://user:{CANARY}@bucket/x",
        f"{{'key': 'AKIA', 'secret': '{CANARY}'}}",
        f"aws_secret_access_key={CANARY}, region=eu",
        f'{{"account_key": "{CANARY}"}}',
        f"Authorization token: {CANARY}",
        f'Invalid bucket name "user:{CANARY}@no-such-bucket": it must match',
    ],
)
def test_no_text_keeps_a_credential(text: str) -> None:
    assert CANARY not in without_secrets(text)
    if "://" in text and " " not in text:
        assert holds_secret(text)
        assert CANARY not in public_uri(text)


def test_ordinary_text_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (
        "cannot write 's3://bucket/set/data/shard-000001.parquet': access denied (403)",
        "option 'expand.max_new_tokens': Input should be a number (given: 'x')",
        "what is here? a mail to me@example.org",
        "/data/a?b/c@d.parquet",
        "the model hf://org/name@3f2a1b has no weights",
        "no file matches prompts.uri='s3://bucket/part-?.parquet'",
        "no answer at http://127.0.0.1:9000/a@b",
    ):
        assert without_secrets(text) == text
    monkeypatch.setenv("SOME_API_TOKEN", CANARY)
    assert without_secrets(f"asked with {CANARY}") == "asked with ***"


def test_what_is_printed_of_configs_and_stores_holds_no_credential() -> None:
    options = {"key": "AKIA", "secret": CANARY}
    config = SynthesizeConfig.model_validate(
        {
            "prompts": {"uri": f"s3://u:{CANARY}@bucket/p.parquet", "options": options},
            "storage": {"options": options},
            "output": {"uri": f"s3://u:{CANARY}@bucket/o"},
        }
    )
    store = Store(f"s3://u:{CANARY}@bucket/o", options)
    assert CANARY not in f"{config!r} {config} {store!r} {store}"


@pytest.mark.parametrize(
    "override",
    [
        f"storage.options.secret={CANARY}",
        f"prompts.options={{key: a, secret: {CANARY}}}",
        f"storage.options={CANARY}",
        f"output.uri=s3://u:{CANARY}@bucket/x",
        f"prompts.uri=https://h/p.parquet?X-Amz-Signature={CANARY}",
    ],
)
def test_a_credential_on_the_command_line_is_refused(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", override, "--debug"]) == 2
    said = "".join(capsys.readouterr())
    assert "on the command line" in said
    assert CANARY not in said


@pytest.mark.parametrize(
    "override", ["generate.model=hf://org/name@3f2a1b", "prompts.uri=s3://bucket/part-?.parquet", "storage.options={}"]
)
def test_a_revision_and_a_glob_are_no_credential(override: str) -> None:
    load_config(SynthesizeConfig, None, [override])


def test_a_broken_config_file_is_not_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    for text in (f"storage:\n  options: {CANARY}\n", f"storage: {{options: {{secret: {CANARY}\n", f"a: b: {CANARY}\n"):
        path.write_text(text)
        assert main(["plan", str(path), "--debug"]) == 2
        assert CANARY not in "".join(capsys.readouterr())
    path.write_text("storage: {options: {secret: '${oc.env:SOME_SECRET}'}}\n")
    os.environ["SOME_SECRET"] = CANARY
    try:
        assert load_config(SynthesizeConfig, path).storage.options == {"secret": CANARY}
    finally:
        del os.environ["SOME_SECRET"]


# A library quotes the row that it fails at, which is a reject; then code between the stages fails and quotes all rows:
# nobody foresaw that, and the job ends.
QUOTING = """
def render(real, self, jobs):
    import pipeline.stages
    def output_rows(block, *more):
        raise KeyError(f"no row for {block['__promptmill_prompt'].to_pylist()}")
    pipeline.stages.output_rows = output_rows
    raise ValueError(f"cannot draw {jobs[0].text}")
"""


@pytest.fixture(scope="module")
def ray_home() -> Iterator[Path]:
    with ray_directory() as scratch:
        yield scratch


def test_canaries_appear_nowhere_in_a_real_run_over_s3_good_or_failing(
    tmp_path: Path, s3_bucket: str, s3_server: object, tiny_gan: Path, tiny_llm: Path, ray_home: Path, engines: Engines
) -> None:
    table, config = tmp_path / "prompts.parquet", tmp_path / "c.yaml"
    prompts = [PROMPT, f"{PROMPT} \x1b[31m two", "", "a tree"]
    pq.write_table(pa.table({"prompt": prompts, "num_images": [1, 1, 1, 0]}), table)
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    environment = {name: value for name, value in os.environ.items() if name != "AWS_SECRET_ACCESS_KEY"}
    environment |= {"RAY_TMPDIR": str(ray_home), "PYTHONPATH": f"{engines.directory}{os.pathsep}{ROOT}"}
    said = ""

    def run(uri: str, given: str, *words: str) -> int:
        nonlocal said
        config.write_text(
            f"prompts: {{uri: '{table}'}}\noutput: {{uri: '{uri}'}}\nstorage: {{attempts: 2, max_backoff: 0.1, "
            f"options: {{key: '{os.environ['AWS_ACCESS_KEY_ID']}', secret: '{given}'}}}}\nshards: {{rows: 2}}\n"
            f"generate: {{model: '{tiny_gan}'}}\nexpand: {{model: '{tiny_llm}', max_new_tokens: 4}}\n"
            "limits: {max_reject_fraction: 1}\nlog: {format: json, level: debug}\n"
        )
        done = subprocess.run([sys.executable, "-m", "jobs.synthesize", str(config), *words], check=False,
                              env=environment, capture_output=True, text=True, timeout=300)  # fmt: skip
        said += done.stdout + done.stderr
        return done.returncode

    assert run(f"{s3_bucket}/out", secret, "--debug") == 0, said
    assert run(f"{s3_bucket}/other", CANARY, "--debug") == 2
    assert run(f"s3://user:{CANARY}@no-such-bucket/x?X-Amz-Signature={CANARY}", secret) != 0
    with engines.fail(QUOTING):
        assert run(f"{s3_bucket}/ended", secret, "--debug", "expand=null") == 1, said
    assert "failed with KeyError, raised at" in said
    assert [word for word in (secret, CANARY, PROMPT) if word in said] == []
    assert found_in(ray_home, [secret, CANARY, PROMPT]) == []

    store = Store(f"{s3_bucket}/out")
    written = [entry.name for part in ("", "data", "_run", "_run/shards") for entry in store.list(part)]
    assert {"README.md", "report.html", "_run/run.json"} <= {name.lstrip("/") for name in written}
    for name in written:
        data = store.read(name) or b""
        assert secret.encode() not in data
        assert CANARY.encode() not in data
        # Prompts are the dataset's content, and shown on its page; records and the card do without.
        assert PROMPT.encode() not in data or "data/" in name or name.endswith("report.html"), name
