"""Two evaluations beside one another: the difference of each metric with an interval, and what it says in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from actors.errors import UserError
from pipeline.judged import Judged
from pipeline.measure import Metric


@dataclass(frozen=True)
class Difference:
    """One metric of A and of B; ``difference`` is B - A with its 95% interval, ``count`` what it rests on."""

    name: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    count: int
    verdict: str


def compare(first: Judged, second: Judged) -> tuple[list[Difference], list[str]]:
    """The differences of all metrics that both have, and remarks, one sentence each.

    Per-prompt metrics are paired by prompt; metrics of a distribution by seeded halves that hold the same prompts and
    the same references.

    Raises:
        UserError: the two were taken with other features, settings or seeds.
    """
    _comparable(first.document, second.document)
    remarks = []
    if _reference(first.document) != _reference(second.document):
        remarks.append("the two have different references: metrics beside a reference are left out")
    others = {metric.name: metric for metric in second.metrics}
    seed = int(first.document["seed"])
    found = []
    for metric in first.metrics:
        other = others.get(metric.name)
        if other is None or (remarks and metric.beside):
            continue
        # Of one name and so of one kind.
        value, low, high, count = metric.figure.difference(other.figure, seed)  # type: ignore[arg-type]
        verdict = _verdict(metric, value, low, high, count)
        found.append(Difference(metric.name, metric.figure.value, other.figure.value, value, low, high, count, verdict))
    if not found:
        remarks.append("the two have no metric in common")
    return found, remarks


def _verdict(metric: Metric, value: float, low: float, high: float, count: int) -> str:
    if count == 0:
        return "no prompt in common"
    if math.isnan(low) or low <= 0 <= high:
        return f"no difference shown at n = {count}"
    if metric.better is None:
        return "B is higher" if value > 0 else "B is lower"
    return "B is better" if (value > 0) == (metric.better == "higher") else "A is better"


def _comparable(first: dict[str, Any], second: dict[str, Any]) -> None:
    if first["features"]["sha256"] != second["features"]["sha256"]:
        raise UserError(
            f"A was evaluated with the features {first['features']['name']}, B with {second['features']['name']} and "
            "other weights: evaluate both with the same features.model"
        )
    for name in ("measures", "seed"):
        if first[name] != second[name]:
            raise UserError(f"A and B were evaluated with different `{name}`: evaluate both alike")


def _reference(document: dict[str, Any]) -> str | None:
    reference = document["reference"]
    return None if reference is None else str(reference["content"])
