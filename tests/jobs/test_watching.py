"""One real run, watched in all ways at once: its metrics, its lines and its spans."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from jobs.cli import main
from pipeline import instruments
from pipeline.commit import committed_shards, read_records
from pipeline.run_record import read_run
from pipeline.storage import Store
from pipeline.summary import Totals, add_up
from pipeline.watching import run_name
from tests.faults.proxy import FaultProxy, Request
from tests.jobs.watched import Collector, Scraper, wait

FORGED = 'a green tree\x1b[31m\n{"level": "error", "event": "forged"} \u202e password=hunter2canary'
PROMPTS = ["a red heart", "一只猫在沙滩上玩耍", "", FORGED, "a blue cat"]


@dataclass
class Watched:
    """A finished run, and what was seen of it.

    Args:
        metrics: those of the node; other runs in the same Ray, of other tests, have told theirs too.
        said: what the driver wrote to standard error.
        logs: the directory where Ray keeps what its processes write.
        files: the directory of spans.
        output: all objects of the dataset's data directory, in one.
    """

    run: str
    totals: Totals
    metrics: Scraper
    said: str
    logs: Path
    collector: Collector
    files: Path
    output: bytes

    def total(self, name: str, **labels: str) -> float:
        """The sum of this run's series with these labels."""
        return self.metrics.total(name, run=self.run, **labels)


class Trouble:
    """Turns a shard's first put away, and never lets its note of timings through."""

    def __init__(self) -> None:
        self._turned_away = False

    def __call__(self, request: Request) -> str | None:
        if request.method != "PUT":
            return None
        if "/data/shard-000000" in request.target and not self._turned_away:
            self._turned_away = True
            return "409"
        return "403" if "/_run/timings/000000" in request.target else None


@pytest.fixture(scope="module")
def watched(
    s3_server, tiny_gan: Path, tiny_llm: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    place = tmp_path_factory.mktemp("watched")
    pq.write_table(pa.table({"prompt": PROMPTS}), place / "prompts.parquet")
    s3_server.create_bucket("watched")
    keys, node, said = s3_server.environ(), ray.nodes()[0], io.StringIO()
    with (
        FaultProxy(s3_server.endpoint, burst=1) as proxy,
        Collector() as collector,
        Scraper(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as metrics,
    ):
        proxy.reset(Trouble())
        options = {
            "key": keys["AWS_ACCESS_KEY_ID"], "secret": keys["AWS_SECRET_ACCESS_KEY"],
            "endpoint_url": proxy.endpoint, "client_kwargs": {"region_name": keys["AWS_DEFAULT_REGION"]},
        }  # fmt: skip
        config = {
            "prompts": {"uri": str(place / "prompts.parquet")},
            "shards": {"rows": 2},
            "expand": {"model": str(tiny_llm), "max_new_tokens": 8, "actors": {"cpus": 0.5}},
            "generate": {"model": str(tiny_gan), "actors": {"cpus": 0.5}},
            "output": {"uri": "s3://watched/out"},
            "storage": {"options": options, "max_backoff": 0.05},
            "limits": {"max_reject_fraction": 0.5, "planned_cost": 0.25},
            "cluster": {"price_cpu_hour": 0.04},
            "log": {"format": "json", "level": "debug"},
            "trace": {"otlp": collector.url, "dir": str(place / "spans")},
        }
        (place / "run.yaml").write_text(json.dumps(config))
        with contextlib.redirect_stderr(said):
            # --debug: without it the run's lines go past Python's standard error, to the terminal itself.
            status = main(["synthesize", str(place / "run.yaml"), "--log-prompts", "--debug"])
        assert status == 0, said.getvalue()
        store = Store("s3://watched/out", options)
        run = run_name(read_run(store)["fingerprint"])
        wanted = {name for one in instruments.ALL for name in one.series}
        wait(lambda: wanted <= metrics.names(run=run))
        # A name may be there before its last value is: each process tells on its own.
        wait(lambda: all(metrics.total(f"ray_promptmill_{name}", run=run) >= last for name, last in LAST.items()))
        wait(lambda: sum(span.name in WAY for span in collector.spans) >= len(WAY) * 3)
        yield Watched(
            run=run,
            totals=add_up(read_records(store, sorted(committed_shards(store)))),
            metrics=metrics,
            said=said.getvalue(),
            logs=Path(ray._private.worker._global_node.get_logs_dir_path()),
            collector=collector,
            files=place / "spans",
            output=b"".join(store.read(entry.name) or b"" for entry in store.list("data")),
        )


# --- metrics ---

LAST = {
    "rows_total": 5,
    "images_total": 4,
    "descriptions_total": 4,
    "shards_committed": 3,
    "commit_seconds_count": 3,
    "stage_seconds_count": 12,
}
"""Of some that each process tells last, the values at the end."""


def test_every_instrument_is_exported_under_the_runs_name(watched: Watched) -> None:
    wanted = {name for one in instruments.ALL for name in one.series}
    assert wanted - watched.metrics.names(run=watched.run) == set()
    assert all("run" in dict(labels) for _, labels in watched.metrics.last)


def test_the_metrics_say_what_the_records_say(watched: Watched) -> None:
    total, totals = watched.total, watched.totals
    assert total("ray_promptmill_rows_total", outcome="committed") == totals.committed == 4
    assert total("ray_promptmill_rows_total", outcome="rejected") == totals.rejected == 1
    assert total("ray_promptmill_rejects_total", reason="empty_prompt") == totals.reasons["empty_prompt"] == 1
    assert total("ray_promptmill_images_total") == totals.images
    assert total("ray_promptmill_output_bytes_total") == totals.bytes
    assert total("ray_promptmill_tokens_total", kind="generated") == totals.tokens > 0
    told = {status: total("ray_promptmill_descriptions_total", status=status) for status in totals.descriptions}
    assert told == totals.descriptions
    assert total("ray_promptmill_shards_committed") == total("ray_promptmill_shards_planned") == totals.shards == 3
    assert total("ray_promptmill_commit_seconds_count") == 3
    assert total("ray_promptmill_stage_seconds_count", stage="read") == 3
    assert total("ray_promptmill_busy_seconds_total", stage="expand") > 0
    assert total("ray_promptmill_busy_seconds_total", stage="generate") > 0


def test_trouble_with_the_store_is_counted_by_its_cause(watched: Watched) -> None:
    total = watched.total
    assert total("ray_promptmill_storage_retries_total", cause="409") == 1
    assert total("ray_promptmill_storage_failures_total", verb="write") == 1
    # Five a shard, with what the run as a whole asks for.
    assert total("ray_promptmill_storage_requests_total") > 15
    assert total("ray_promptmill_storage_written_bytes_total") > watched.totals.bytes


def test_cost_is_told_where_a_price_is_known(watched: Watched) -> None:
    total = watched.total
    assert total("ray_promptmill_cost_planned") == 0.25
    assert 0 < total("ray_promptmill_cost") <= total("ray_promptmill_cost_expected")


# --- lines ---


def lines_of_actors(watched: Watched) -> list[dict[str, Any]]:
    """The run's lines in the logs that Ray keeps of its workers."""
    found = []
    for file in watched.logs.glob("worker-*.err"):
        for line in file.read_text(errors="replace").splitlines():
            if f'"run": "{watched.run}"' in line:
                found.append(json.loads(line))
    return found


def test_each_line_of_driver_and_actors_says_of_which_run_and_from_whom(watched: Watched) -> None:
    driver = [json.loads(line) for line in watched.said.splitlines() if line.startswith("{")]
    assert any("3 of 3 shards to make" in line["event"] for line in driver)
    assert {(line["run"], line["actor"]) for line in driver} == {(watched.run, "driver")}
    (finished,) = [line for line in driver if line["event"] == "finished"]
    assert [finished[name] for name in ("planned", "committed", "rejected", "made_shards")] == [5, 4, 1, 3]
    actors = lines_of_actors(watched)
    assert {line["actor"].partition("-")[0] for line in actors} == {"read", "expand", "generate"}
    for line in [*driver, *actors]:
        assert re.fullmatch(r"2\d{3}-\d\d-\d\dT[\d:.]+\+00:00", line["timestamp"])
        assert line["level"] in {"debug", "info", "warning", "error"}


def test_each_shard_has_its_lines_from_reading_to_its_record(watched: Watched) -> None:
    seen = Counter((line["event"], line["shard"]) for line in lines_of_actors(watched) if "shard" in line)
    for shard in range(3):
        assert [seen[event, shard] for event in ("shard read", "shard described", "shard committed")] == [1, 1, 1]
    (again,) = [line for line in lines_of_actors(watched) if line["event"] == "a request is tried again"]
    assert (again["shard"], again["cause"], again["level"]) == (0, "409", "debug")


def test_prompts_are_logged_on_demand_and_forge_nothing(watched: Watched) -> None:
    lines = lines_of_actors(watched)
    told = [line["prompt"] for line in lines if line["event"] == "described"]
    assert len(told) == 4
    assert {"a red heart", "一只猫在沙滩上玩耍"} <= set(told)
    (forged,) = [prompt for prompt in told if "green" in prompt]
    assert forged.isprintable()
    assert r"\x1b[31m\n{" in forged
    assert "hunter2canary" not in forged
    (rejected,) = [line for line in lines if line["event"] == "rejected"]
    assert (rejected["reason"], rejected["stage"], rejected["shard"]) == ("empty_prompt", "read", 1)
    assert "forged" not in {line["event"] for line in lines}
    raw = "".join(file.read_text(errors="replace") for file in watched.logs.glob("worker-*.err")) + watched.said
    ours = "\n".join(line for line in raw.splitlines() if watched.run in line)
    assert "\x1b" not in ours
    assert "\u202e" not in ours
    assert "hunter2canary" not in ours


# --- spans ---

WAY = ["read", "expand", "render", "encode", "put", "record"]


def test_the_spans_of_a_shard_join_from_all_processes_in_one_trace_in_order(watched: Watched) -> None:
    roots = {span.trace_id: span for span in watched.collector.spans if span.name == "shard"}
    assert len(roots) == 3
    for trace, root in roots.items():
        parts = [span for span in watched.collector.spans if span.trace_id == trace and span is not root]
        assert root.parent_span_id == b""
        assert {part.parent_span_id for part in parts} == {root.span_id}
        steps = sorted((part for part in parts if part.name in WAY), key=lambda part: part.start_time_unix_nano)
        assert [step.name for step in steps] == WAY
        assert root.start_time_unix_nano <= steps[0].start_time_unix_nano + 10_000_000
        assert root.end_time_unix_nano >= steps[-1].end_time_unix_nano
    assert sum(span.name == "put rejects" for span in watched.collector.spans) == 1


def test_the_files_hold_the_same_spans_and_no_words(watched: Watched) -> None:
    files = sorted(watched.files.glob("spans-*.jsonl"))
    assert {file.name.split("-")[2] for file in files} == {"read", "expand", "generate"}
    told = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    ids = Counter(span["context"]["span_id"] for span in told)
    assert ids == Counter(f"0x{span.span_id.hex()}" for span in watched.collector.spans)
    assert {span["resource"]["attributes"]["promptmill.run"] for span in told} == {watched.run}
    text = json.dumps(told)
    assert "heart" not in text
    assert "hunter2canary" not in text


def test_what_watches_changes_no_byte(watched: Watched) -> None:
    assert b"__promptmill_" not in watched.output
    assert watched.run.encode() in watched.output
