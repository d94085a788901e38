"""One real run, watched in all ways at once: its metrics as Prometheus reads them of Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
from tests.jobs.watched import Scraper

PROMPTS = ["a red heart", "一只猫在沙滩上玩耍", "", "a green tree", "a blue cat"]


@dataclass
class Watched:
    """A finished run, and what was seen of it."""

    run: str
    metrics: Scraper
    totals: Totals


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
    keys, node = s3_server.environ(), ray.nodes()[0]
    with (
        FaultProxy(s3_server.endpoint, burst=1) as proxy,
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
        }
        (place / "run.yaml").write_text(json.dumps(config))
        assert main(["synthesize", str(place / "run.yaml"), "--quiet"]) == 0
        store = Store("s3://watched/out", options)
        wanted = {name for one in instruments.ALL for name in one.series}
        metrics.wait(lambda: wanted <= metrics.names())
        totals = add_up(read_records(store, sorted(committed_shards(store))))
        yield Watched(run_name(read_run(store)["fingerprint"]), metrics, totals)


def test_every_instrument_is_exported_under_the_runs_name(watched: Watched) -> None:
    wanted = {name for one in instruments.ALL for name in one.series}
    assert wanted - watched.metrics.names() == set()
    assert {dict(labels)["run"] for name, labels in watched.metrics.last} == {watched.run}


def test_the_metrics_say_what_the_records_say(watched: Watched) -> None:
    total, totals = watched.metrics.total, watched.totals
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
    total = watched.metrics.total
    assert total("ray_promptmill_storage_retries_total", cause="409") == 1
    assert total("ray_promptmill_storage_failures_total", verb="write") == 1
    assert total("ray_promptmill_storage_requests_total") > 20
    assert total("ray_promptmill_storage_written_bytes_total") > watched.totals.bytes


def test_cost_is_told_where_a_price_is_known(watched: Watched) -> None:
    total = watched.metrics.total
    assert total("ray_promptmill_cost_planned") == 0.25
    assert 0 < total("ray_promptmill_cost") <= total("ray_promptmill_cost_expected")
