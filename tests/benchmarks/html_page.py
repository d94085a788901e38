"""``bench.html``: what ``bench.json`` holds, drawn by the pages' own means: one file without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.page import render_page
from pipeline.report import Bar

_TEMPLATE = Path(__file__).parent / "bench.html.j2"


def bench_page(report: Mapping[str, Any]) -> str:
    """The page as HTML; ``report`` is the content of ``bench.json``."""
    benchmarks = [
        (
            name,
            {
                "error": result.get("error"),
                "rows": [{**row, "bars": _bars(row)} for row in result.get("comparisons", [])],
            },
        )
        for name, result in report["benchmarks"].items()
    ]
    facts = [*report["machine"].items(), *report["versions"].items(), ("prompts", report["prompts"])]
    return render_page(
        _TEMPLATE, benchmarks=benchmarks, quick=report["quick"], versions=report["versions"],
        facts=[(key, str(value)) for key, value in facts],
    )  # fmt: skip


def _bars(row: Mapping[str, Any]) -> Sequence[Bar]:
    """The ratio, the same by CPU time, and where the target lies."""
    target = [float(part.split()[1]) for part in row["target"].split(", ") if part]
    cpu = row["cpu"] or {"ratio": 0, "most": 0}
    widest = max(row["most"], cpu["most"], *target, 1e-9)
    kind = {True: "good", False: "warn", None: "plain"}[row["met"]]
    bars = [Bar("ratio", _spread(row), row["ratio"] / widest, kind)]
    if row["cpu"]:
        bars.append(Bar("by CPU time", _spread(cpu), cpu["ratio"] / widest, "plain"))
    if target:
        bars.append(Bar("target", row["target"], target[0] / widest, "plain"))
    return bars


def _spread(found: Mapping[str, Any]) -> str:
    return f"{found['ratio']:.3g} ({found['least']:.3g} to {found['most']:.3g}, {found['turns']} turns)"
