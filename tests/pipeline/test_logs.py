"""Lines of the log without a run: their formats and levels, and that nothing in them steers, forges or tells a secret.

What drivers and actors of a real run write is in tests/jobs/test_watching.py.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cli import main
from jobs.cli_words import split
from jobs.printing import tell
from pipeline import logs, traces
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.config_running import Log
from pipeline.logs import LogSettings

JSON = LogSettings(json=True)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    logs.reset()
    yield
    logs.reset()


def test_plain_lines_are_the_projects_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    tell("nothing to do")
    logs.begin(LogSettings(), run="abc", actor="driver")
    logs.say("warning", "the disk is slow")
    logs.begin(LogSettings(), actor="generate-12ab")
    with logs.of_shard(3):
        logs.say("info", "shard committed", rows=4, seconds=1.23456)
    assert capsys.readouterr().err.splitlines() == [
        "promptmill: nothing to do",
        "promptmill: the disk is slow",
        "promptmill: shard committed actor=generate-12ab rows=4 seconds=1.235 shard=3",
    ]


def test_each_line_of_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    logs.begin(JSON, run="abc", actor="driver")
    with logs.of_shard(0):
        logs.say("error", 'it said "no"', rows=2)
    logs.say("info", "on")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("timestamp") <= second.pop("timestamp")
    assert first == {"level": "error", "event": 'it said "no"', "run": "abc", "actor": "driver", "rows": 2, "shard": 0}
    assert second == {"level": "info", "event": "on", "run": "abc", "actor": "driver"}


@given(st.text(), st.booleans())
def test_no_text_steers_a_terminal_or_forges_a_line(text: str, as_json: bool) -> None:
    logs.begin(LogSettings(json=as_json, prompts=True), run="abc", actor="driver")
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr(sys, "stderr", type("Err", (), {"write": staticmethod(written.append), "flush": lambda *_: None}))
        logs.words(text, prompt=text)
        logging.getLogger("actors.any").error("%s", text)
    lines = "".join(written).split("\n")
    assert len(lines) == 3
    for line in lines:
        assert line.isprintable()
    for line in lines[:2] if as_json else ():
        told = json.loads(line)
        assert all(str(value).isprintable() for value in told.values())


@pytest.mark.parametrize("as_json", [True, False])
def test_credentials_are_hidden(
    as_json: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_TOKEN", "hunter2canary")
    logs.begin(LogSettings(json=as_json), run="abc", actor="driver")
    logs.say(
        "info", "asked s3://user:hunter2canary@bucket/x", place="https://h/x?sig=hunter2canary", token="hunter2canary"
    )
    tell("hunter2canary is refused")
    assert "hunter2canary" not in capsys.readouterr().err


def test_levels_and_words_hold_back(capsys: pytest.CaptureFixture[str]) -> None:
    logs.begin(LogSettings(level="warning"), actor="driver")
    logs.say("info", "unheard")
    logs.words("described", prompt="a red heart")
    logs.say("error", "heard")
    assert capsys.readouterr().err == "promptmill: heard\n"
    logs.begin(LogSettings(level="debug"), actor="driver")
    logs.words("described", prompt="a red heart")
    assert capsys.readouterr().err == ""
    logs.begin(LogSettings(prompts=True), actor="driver")
    logs.words("described", prompt="a red heart")
    assert capsys.readouterr().err == "promptmill: described prompt=a red heart\n"


def test_auto_is_json_in_ray_jobs_and_pods_and_plain_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    assert not logs.log_settings(Log()).json
    assert logs.log_settings(Log(format="json")).json
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "KUBERNETES_SERVICE_HOST"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "{}")
            assert logs.log_settings(Log()).json
            assert not logs.log_settings(Log(format="plain")).json
            patch.setattr(sys.stderr, "isatty", lambda: True)
            assert not logs.log_settings(Log()).json


def test_the_last_words_have_the_format_of_the_run() -> None:
    assert logs.last_line("gone") == "promptmill: gone"
    logs.begin(JSON, run="abc", actor="driver")
    assert json.loads(logs.last_line("gone")) == {"level": "error", "event": "gone", "run": "abc", "actor": "driver"}


def test_lines_of_json_read_as_plain_ones_to_whoever_follows_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    logs.begin(JSON, run="abc", actor="driver")
    logs.say("info", "3 of 3 shards to make")
    log = f"rows in  3\n{capsys.readouterr().err}{{}}\n"
    assert logs.plain(log) == "rows in  3\npromptmill: 3 of 3 shards to make\n{}\n"


def test_a_new_command_begins_with_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.begin(JSON, run="abc", actor="driver")
    assert main(["plan", "no.such=1"]) == 2
    assert capsys.readouterr().err.startswith("promptmill: ")


def test_log_prompts_is_an_option_of_the_config_and_contradicts_redaction(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_config(SynthesizeConfig, *split(None, [], log_prompts=True)).log.prompts
    assert not load_config(SynthesizeConfig, *split(None, None)).log.prompts
    assert main(["synthesize", "redact.drop=[prompt,description]", "--log-prompts"]) == 2
    assert "log.prompts (--log-prompts) writes what redact hides" in capsys.readouterr().err


def test_how_a_run_is_watched_is_no_part_of_what_it_makes() -> None:
    told = ["log={format: json, level: debug, prompts: true}", "trace={otlp: 'http://c:4318', dir: /tmp/spans}",
            "cluster.price_gpu_hour=2", "limits.planned_cost=9"]  # fmt: skip
    assert load_config(SynthesizeConfig, None, told).identity() == SynthesizeConfig().identity()


def test_a_collectors_password_is_refused_and_not_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "trace.otlp=http://u:hunter2canary@c:4318"]) == 2
    assert "hunter2canary" not in capsys.readouterr().err


def test_help_and_spans_that_are_off_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom jobs.cli import main\nfrom pipeline import traces\n"
        "main(['synthesize', '--help'])\n"
        "with traces.of_shard(0), traces.span('read', rows=1): traces.finish_shard(0, None)\n"
        "print([name for name in ('ray', 'torch', 'opentelemetry', 'structlog') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_traces_without_what_exports_them_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from actors.errors import UserError
    from pipeline.config_running import Trace

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    assert traces.trace_settings(Trace(), "f") is None
    with pytest.raises(UserError, match=r"pip install 'promptmill\[trace\]'"):
        traces.trace_settings(Trace(otlp="http://c:4318"), "f")
