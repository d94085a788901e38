"""infra/dashboards asks for what a run tells: tests/jobs/test_watching.py sees each of these metrics exported."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from pipeline import instruments
from tests.infra.rendered import KUBECTL, KUBERAY, REPOSITORY

DASHBOARDS = REPOSITORY / "infra/dashboards"
BOARD = json.loads((DASHBOARDS / "promptmill.json").read_text())
ALERTS = yaml.safe_load((DASHBOARDS / "alerts.yaml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
TOLD = {series: one for one in instruments.ALL for series in one.series}


def queries() -> dict[str, str]:
    """Each query by where it stands."""
    found = {rule["alert"]: rule["expr"] for rule in RULES}
    for panel in BOARD["panels"]:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    # What Grafana fills in before Prometheus sees it.
    return {name: text.replace("$__rate_interval", "5m").replace("$run", ".+") for name, text in found.items()}


def parts(node: Any) -> Iterator[Any]:
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield from parts(child)
    for child in getattr(node, "args", None) or []:
        yield from parts(child)


def asked(query: str) -> set[str]:
    """The metrics that a query names."""
    return {node.name for node in parts(promql_parser.parse(query)) if isinstance(node, promql_parser.VectorSelector)}


@pytest.mark.parametrize(("where", "query"), queries().items(), ids=list(queries()))
def test_queries_are_promql_and_ask_for_metrics_and_labels_that_there_are(where: str, query: str) -> None:
    metrics = asked(query)
    assert metrics
    assert metrics - TOLD.keys() == set()
    labels = {"run", "le"}.union(*(TOLD[name].labels for name in metrics))
    for node in parts(promql_parser.parse(query)):
        if isinstance(node, promql_parser.AggregateExpr):
            assert set(node.modifier.labels) <= labels
        if isinstance(node, promql_parser.VectorSelector):
            assert {match.name for match in node.matchers.matchers} <= {"run", *TOLD[node.name].labels}


def test_each_metric_is_shown_somewhere() -> None:
    shown = set().union(*map(asked, queries().values()))
    assert [one.name for one in instruments.ALL if not shown & set(one.series)] == []


def test_the_dashboard_lets_one_choose_prometheus_and_the_run() -> None:
    variables = {one["name"]: one for one in BOARD["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    (metric,) = re.findall(r"label_values\((\w+), run\)", variables["run"]["query"])
    assert metric in TOLD
    for panel in BOARD["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all("$run" in target["expr"] for target in panel["targets"])
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_there_are_four_alerts_and_each_has_its_words() -> None:
    assert [rule["alert"] for rule in RULES] == [
        "PromptmillStalled", "PromptmillRejects", "PromptmillStorageErrors", "PromptmillCostAbovePlan",
    ]  # fmt: skip
    titles = {panel["title"] for panel in BOARD["panels"]}
    page = (REPOSITORY / "docs/operations.md").read_text()
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "description"}
        assert "{{ $labels.run }}" in rule["annotations"]["summary"]
        assert set(re.findall(r"See '([^']+)'", rule["annotations"]["description"])) <= titles
        assert f"`{rule['alert']}`" in page


def test_promtool_finds_each_alert_to_speak_when_it_must_and_only_then() -> None:
    promtool = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here (Debian's package prometheus has it; PROMTOOL may name it)")
    for words in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run([promtool, *words], cwd=DASHBOARDS, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The GPU overlay with the component for the Prometheus operator."""
    place = tmp_path_factory.mktemp("overlay").resolve()
    up = os.path.relpath(KUBERAY, place)
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "promptmill",
        "resources": [f"{up}/overlays/gpu-spot"], "components": [f"{up}/components/prometheus-operator"],
    }  # fmt: skip
    (Path(place) / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    done = subprocess.run([KUBECTL, "kustomize", str(place)], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


def test_the_operators_alerts_are_the_same(monitored: list[dict[str, Any]]) -> None:
    (rules,) = [one for one in monitored if one["kind"] == "PrometheusRule"]
    assert rules["spec"] == ALERTS


def test_the_pod_monitor_chooses_all_pods_of_ray_and_the_port_that_is_open_to_it(
    monitored: list[dict[str, Any]],
) -> None:
    (monitor,) = [one for one in monitored if one["kind"] == "PodMonitor"]
    (job,) = [one for one in monitored if one["kind"] == "RayJob"]
    (policy,) = [one for one in monitored if one["metadata"]["name"] == "metrics-from-monitoring"]
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    wanted = monitor["spec"]["selector"]["matchExpressions"]
    assert wanted == policy["spec"]["podSelector"]["matchExpressions"]
    for group in groups:
        labels = group["template"]["metadata"]["labels"]
        assert all(labels[each["key"]] in each["values"] for each in wanted)
        assert group["rayStartParams"]["metrics-export-port"] == "8080"
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == [8080]
    assert [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
